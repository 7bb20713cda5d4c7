"""`langchain-openai` against a live swarm: argument 1 is the router's address, argument 2 a model's name."""

import asyncio
import json
import sys

import openai
from checks import check, run_all
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel, ConfigDict, Field

ADDRESS, MODEL = sys.argv[1], sys.argv[2]


def chat(**more):
    settings = {"temperature": 0, "max_tokens": 24, "max_retries": 0, "timeout": 120, **more}
    return ChatOpenAI(base_url=f"http://{ADDRESS}/v1", api_key="unused", model=MODEL, **settings)


MESSAGES = [SystemMessage("Be brief."), HumanMessage("Name three colours.")]


@check
def a_chat_is_answered():
    answer = chat().invoke(MESSAGES)
    assert isinstance(answer, AIMessage) and answer.content, answer
    assert answer.response_metadata["finish_reason"] in ("stop", "length")
    usage = answer.usage_metadata
    assert usage["output_tokens"] in range(1, 25)
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


@check
def a_stream_is_the_answer_in_pieces():
    whole = chat().invoke(MESSAGES)
    chunks = list(chat(stream_usage=True).stream(MESSAGES))
    assert len(chunks) > 2
    total = chunks[0]
    for chunk in chunks[1:]:
        total += chunk
    assert total.content == whole.content, (total, whole)
    assert total.usage_metadata["output_tokens"] == whole.usage_metadata["output_tokens"]


class City(BaseModel):
    """Which city."""

    model_config = ConfigDict(extra="forbid")
    # A small model may go on until max_tokens; without `strict` LangChain leaves `extra` out, too.
    city: str = Field(max_length=30)


@tool(args_schema=City)
def weather(city: str) -> str:
    """The weather of a city."""
    return f"22 degrees in {city}"


class Place(BaseModel):
    """A place."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(max_length=20)
    people: int = Field(ge=0, le=999)


@check
def a_tool_is_called_and_its_result_is_taken():
    bound = chat(max_tokens=100).bind_tools([weather], tool_choice="weather", strict=True)
    asked = HumanMessage("What is the weather in Paris?")
    answer = bound.invoke([asked])
    assert len(answer.tool_calls) == 1, answer
    [call] = answer.tool_calls
    assert call["name"] == "weather" and "city" in call["args"], answer
    told = chat().invoke([asked, answer, ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])])
    assert told.content


@check
def a_streamed_tool_call_is_the_whole_one():
    bound = chat(max_tokens=100).bind_tools([weather], tool_choice="required", strict=True)
    whole = bound.invoke(MESSAGES).tool_calls
    total = None
    for chunk in bound.stream(MESSAGES):
        total = chunk if total is None else total + chunk
    assert [(call["name"], call["args"]) for call in total.tool_calls] == [(call["name"], call["args"]) for call in whole]


@check
def structured_output_is_of_its_schema():
    for method in ("json_schema", "function_calling"):
        place = chat(max_tokens=100).with_structured_output(Place, method=method, strict=True).invoke("Name a town.")
        assert isinstance(place, Place), (method, place)


@check
def json_mode_gives_json():
    whole = 0
    for seed in range(8):
        bound = chat(max_tokens=120, temperature=1.0, seed=seed).bind(response_format={"type": "json_object"})
        try:
            answer = bound.invoke([HumanMessage("Answer with a JSON object with one key.")])
        except openai.LengthFinishReasonError as error:
            # A small model may go on until max_tokens: JSON it is, as far as it goes.
            assert error.completion.choices[0].message.content.lstrip().startswith("{"), error
            continue
        assert isinstance(json.loads(answer.content), dict), answer
        whole += 1
    assert whole >= 1


@check
def a_stop_string_ends_an_answer_before_it():
    whole = chat(max_tokens=40).invoke(MESSAGES).content
    cut = chat(max_tokens=40).invoke(MESSAGES, stop=[whole[5:9]]).content
    assert cut == whole[: whole.index(whole[5:9])]


@check
def the_responses_api_is_served():
    answer = chat(use_responses_api=True).invoke([HumanMessage("Name three colours.")])
    assert answer.text and answer.usage_metadata["output_tokens"] in range(1, 25), answer


@check
def a_text_is_completed():
    model = OpenAI(base_url=f"http://{ADDRESS}/v1", api_key="unused", model=MODEL, temperature=0, max_tokens=12, max_retries=0)
    text = model.invoke("Once upon a time")
    assert text and text == "".join(model.stream("Once upon a time")), text


@check
def many_at_once_are_answered():
    async def run():
        answers = await chat().abatch([[HumanMessage(f"Count from {number}.")] for number in range(16)])
        assert all(answer.content for answer in answers)
        pieces = [piece.content async for piece in chat().astream(MESSAGES)]
        assert "".join(pieces) == (await chat().ainvoke(MESSAGES)).content

    asyncio.run(run())


run_all()
