"""The official `openai` client against a live swarm: argument 1 is the router's address, argument 2 a model's name."""

import asyncio
import json
import sys
import time

import openai
from checks import check, run_all
from jsonschema import validate

ADDRESS, MODEL = sys.argv[1], sys.argv[2]
BASE = f"http://{ADDRESS}/v1"
client = openai.OpenAI(base_url=BASE, api_key="unused", max_retries=0, timeout=120)
GREEDY = {"model": MODEL, "temperature": 0}


def chat(content, **more):
    messages = [{"role": "user", "content": content}]
    return client.chat.completions.create(**{**GREEDY, "messages": messages, "max_tokens": 24, **more})


@check
def models():
    listed = client.models.list().data
    assert MODEL in [model.id for model in listed], listed
    assert all(model.object == "model" and model.context_length > 0 for model in listed)


@check
def a_chat_is_answered():
    answer = chat("Name three colours.")
    choice = answer.choices[0]
    assert choice.message.role == "assistant" and choice.message.content
    assert choice.finish_reason in ("stop", "length")
    usage = answer.usage
    assert usage.completion_tokens in range(1, 25) and usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert answer.id.startswith("chatcmpl-") and answer.system_fingerprint and answer.model == MODEL


@check
def a_request_is_told_by_its_id_its_session_and_its_route():
    messages = [{"role": "user", "content": "Hello!"}]
    ask = {**GREEDY, "messages": messages, "max_tokens": 4}
    for more, stream in [({}, False), ({"x-request-id": "mine-1"}, False), ({"x-request-id": "mine-2"}, True)]:
        raw = client.chat.completions.with_raw_response.create(**ask, stream=stream, extra_headers=more)
        assert raw.headers["x-request-id"] == more.get("x-request-id", raw.headers["x-request-id"])
        assert raw.headers["layerlane-session"] and len(raw.headers["layerlane-route"].split(">")) == 2, raw.headers
        if not stream:
            assert raw.parse()._request_id == raw.headers["x-request-id"]
    try:
        chat("x", temperature=9)
    except openai.BadRequestError as error:
        assert error.request_id, error
    else:
        raise AssertionError("it was not refused")


@check
def what_agents_add_is_taken():
    cache = {"type": "ephemeral"}
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "Be brief.", "cache_control": cache}]},
        {"role": "user", "content": "Hello!", "cache_control": cache},
        {"role": "assistant", "content": "Hi!", "reasoning": "hm", "reasoning_details": [], "annotations": [], "audio": None},
        {"role": "user", "content": "Name a colour."},
    ]
    extra = {"cache_control": cache, "reasoning": {"effort": "low"}, "thinking": {"type": "disabled"}}
    tools = [{**TOOLS[0], "cache_control": cache}]
    answer = client.chat.completions.create(
        **GREEDY, messages=messages, tools=tools, max_tokens=8, store=False, metadata={"a": "b"}, user="u",
        safety_identifier="s", prompt_cache_key="k", service_tier="auto", verbosity="low", extra_body=extra,
    )
    assert answer.choices[0].message.content


@check
def a_stream_is_the_answer_in_pieces():
    for prompt in ["Name three colours.", "Repeat: 日本語 🎉 e\u0301 👩‍👩‍👧"]:
        whole = chat(prompt, max_tokens=40)
        stream = chat(prompt, max_tokens=40, stream=True, stream_options={"include_usage": True})
        chunks = list(stream)
        assert chunks[0].choices[0].delta.role == "assistant"
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert text == whole.choices[0].message.content, (text, whole)
        assert chunks[-1].usage == whole.usage and not chunks[-1].choices
        assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason


@check
def choices_differ_and_a_seed_gives_them_again():
    def texts(seed):
        answer = chat("Tell me something.", n=3, temperature=1.0, seed=seed)
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        return [choice.message.content for choice in answer.choices]

    first = texts(7)
    assert len(set(first)) == 3 and first != texts(8), first


@check
def stop_strings_end_an_answer_before_them():
    whole = chat("Count from 1 to 9.", max_tokens=40).choices[0].message.content
    stop = whole[5:9]
    cut = chat("Count from 1 to 9.", max_tokens=40, stop=[stop])
    assert cut.choices[0].message.content == whole[: whole.index(stop)]
    assert cut.choices[0].finish_reason == "stop"


@check
def probabilities_are_told():
    entries = chat("Hello!", logprobs=True, top_logprobs=4, max_tokens=8).choices[0].logprobs.content
    assert len(entries) <= 8
    for entry in entries:
        tops = [top.logprob for top in entry.top_logprobs]
        assert len(tops) == 4 and tops == sorted(tops, reverse=True)
        # Greedy takes the likeliest.
        assert abs(tops[0] - entry.logprob) < 1e-4 and entry.logprob <= 0


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather of a city",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "maxLength": 30}},
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    },
    {
        "type": "function",
        "function": {"name": "now", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}},
    },
]


@check
def a_tool_is_called_and_its_result_is_taken():
    named = {"type": "function", "function": {"name": "weather"}}
    answer = chat("What is the weather in Paris?", tools=TOOLS, tool_choice=named, max_tokens=100)
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls", choice
    [call] = choice.message.tool_calls
    assert call.function.name == "weather" and "city" in json.loads(call.function.arguments)
    messages = [
        {"role": "user", "content": "What is the weather in Paris?"},
        choice.message,
        {"role": "tool", "tool_call_id": call.id, "content": "22 degrees and sunny"},
    ]
    told = client.chat.completions.create(**GREEDY, messages=messages, tools=TOOLS, tool_choice="none", max_tokens=24)
    assert told.choices[0].message.content


@check
def a_streamed_tool_call_is_the_whole_one():
    ask = {"tools": TOOLS, "tool_choice": "required", "max_tokens": 100}
    whole = chat("What is the weather in Rome?", **ask).choices[0].message.tool_calls
    parts = {}
    for chunk in chat("What is the weather in Rome?", stream=True, **ask):
        for call in chunk.choices[0].delta.tool_calls or []:
            part = parts.setdefault(call.index, {"name": "", "arguments": "", "id": call.id})
            part["name"] += call.function.name or ""
            part["arguments"] += call.function.arguments or ""
    told = [(part["name"], part["arguments"]) for part in parts.values()]
    assert told == [(call.function.name, call.function.arguments) for call in whole], (told, whole)


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "tags": {"type": "array", "items": {"enum": ["red", "green"]}, "minItems": 1, "maxItems": 3},
        "size": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "tags", "size"],
    "additionalProperties": False,
}


@check
def json_of_a_schema_and_json_of_any_shape():
    form = {"type": "json_schema", "json_schema": {"name": "thing", "schema": SCHEMA, "strict": True}}
    for seed in range(4):
        answer = chat("Describe an apple as JSON.", response_format=form, temperature=1.0, seed=seed, max_tokens=200)
        assert answer.choices[0].finish_reason == "stop", answer
        validate(json.loads(answer.choices[0].message.content), SCHEMA)
    whole = 0
    for seed in range(8):
        ask = {"response_format": {"type": "json_object"}, "temperature": 1.0, "seed": seed, "max_tokens": 200}
        choice = chat("Describe an apple as JSON with one key.", **ask).choices[0]
        if choice.finish_reason == "stop":
            assert isinstance(json.loads(choice.message.content), dict), choice
            whole += 1
        else:
            # A small model may go on until max_tokens: JSON it is, as far as it goes.
            assert choice.message.content.lstrip().startswith("{"), choice
    assert whole >= 1


@check
def texts_are_continued():
    ask = {**GREEDY, "prompt": ["Once upon a time", "The sky is"], "max_tokens": 12, "n": 1}
    whole = client.completions.create(**ask, logprobs=2)
    assert [choice.index for choice in whole.choices] == [0, 1] and all(choice.text for choice in whole.choices)
    told = whole.choices[0].logprobs
    assert len(told.tokens) == len(told.token_logprobs) == len(told.text_offset) == 12
    pieces = {0: "", 1: ""}
    for chunk in client.completions.create(**ask, stream=True):
        for choice in chunk.choices:
            pieces[choice.index] += choice.text
    assert pieces == {choice.index: choice.text for choice in whole.choices}, (pieces, whole)
    ids = client.completions.create(**{**GREEDY, "prompt": [504, 2387, 314], "max_tokens": 3})
    assert ids.usage.prompt_tokens == 3 and ids.usage.completion_tokens == 3


@check
def responses_are_given():
    ask = {**GREEDY, "input": "Name three colours.", "instructions": "Be brief.", "max_output_tokens": 24}
    whole = client.responses.create(**ask)
    assert whole.output_text and whole.status in ("completed", "incomplete") and whole.usage.output_tokens <= 24
    events = list(client.responses.create(**ask, stream=True))
    assert events[0].type == "response.created" and events[-1].type in ("response.completed", "response.incomplete")
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == whole.output_text == events[-1].response.output_text
    [tool] = [{"type": "function", "strict": True, **TOOLS[0]["function"]}]
    called = client.responses.create(**{**ask, "tools": [tool], "tool_choice": "required", "max_output_tokens": 100})
    [call] = [item for item in called.output if item.type == "function_call"]
    assert call.name == "weather" and "city" in json.loads(call.arguments)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "22 degrees"}
    items = [{"role": "user", "content": "Weather?"}, call, result]
    assert client.responses.create(**{**ask, "input": items}).output_text


@check
def what_no_model_offers_is_an_error():
    try:
        client.embeddings.create(model=MODEL, input="x")
    except openai.BadRequestError as error:
        assert "embeddings" in str(error)
    else:
        raise AssertionError("embeddings were given")


@check
def a_stream_may_be_left():
    with chat("Tell a long story.", max_tokens=2000, stream=True) as stream:
        for number, _ in enumerate(stream):
            if number == 3:
                break
    # It would go on for a minute.
    until = time.monotonic() + 5
    while (running := sum(model.running for model in client.models.list())) > 0 and time.monotonic() < until:
        pass
    assert running == 0, running
    assert chat("Still there?").choices[0].message.content


def refused(kind, **ask):
    try:
        chat("x", **ask)
    except kind as error:
        return error
    raise AssertionError(f"{ask} was not refused")


@check
def mistakes_are_the_clients_error_classes():
    assert refused(openai.NotFoundError, model="nobody/has-this").code == "model_not_found"
    error = refused(openai.BadRequestError, extra_body={"tempreature": 1})
    assert error.param == "tempreature" and "temperature" in str(error), error
    assert refused(openai.BadRequestError, temperature=9).param == "temperature"
    assert refused(openai.BadRequestError, max_tokens=0).param == "max_tokens"
    bad = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nothing"}}}
    assert "nothing" in str(refused(openai.BadRequestError, response_format=bad))
    picture = [{"type": "image_url", "image_url": {"url": "data:,"}}]
    error = refused(openai.BadRequestError, messages=[{"role": "user", "content": picture}])
    assert "image_url" in str(error), error


@check
def thirty_two_at_once():
    async def run():
        many = openai.AsyncOpenAI(base_url=BASE, api_key="unused", max_retries=0, timeout=300)

        async def one(number):
            messages = [{"role": "user", "content": f"Say {number}."}]
            stream = await many.chat.completions.create(**GREEDY, messages=messages, max_tokens=12, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        return await asyncio.gather(*(one(number) for number in range(32)))

    texts = asyncio.run(run())
    assert len(texts) == 32 and all(texts)


run_all()
