"""Answers that must be JSON of a schema: ten of each of twenty schemas parse and validate; schemas that can't be met or
are absurd are refused soon. Argument 1 is the router's address, argument 2 a model's name.
"""

import asyncio
import json
import sys
import time

import openai
from checks import check, run_all
from jsonschema import Draft202012Validator

ADDRESS, MODEL = sys.argv[1], sys.argv[2]

def client():
    """Of one event loop: each check has its own."""
    return openai.AsyncOpenAI(base_url=f"http://{ADDRESS}/v1", api_key="unused", max_retries=0, timeout=600)


def obj(**properties):
    required = list(properties)
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def text(most=12):
    return {"type": "string", "maxLength": most}


def many(items, most=3, least=0):
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


# Without `multipleOf` a small model may write digits until max_tokens.
WHOLE = {"type": "integer", "minimum": 0, "maximum": 999}
POINT = obj(x={"type": "integer", "minimum": -9, "maximum": 9}, y={"type": "integer", "minimum": -9, "maximum": 9})

SCHEMAS = {
    "one text": obj(name=text()),
    "a number": obj(value={"type": "number", "minimum": 0, "maximum": 10, "multipleOf": 0.01}),
    "a flag": obj(ok={"type": "boolean"}),
    "nothing": obj(nothing={"type": "null"}),
    "an enum": obj(colour={"enum": ["red", "green", "blue"]}),
    "an enum of kinds": obj(value={"enum": [1, "two", None, True]}),
    "a constant": obj(kind={"const": "apple"}, size=WHOLE),
    "a pattern": obj(code={"type": "string", "pattern": "^[A-Z]{3}-[0-9]{4}$"}),
    "a date": obj(day={"type": "string", "pattern": "^[0-9]{4}-[01][0-9]-[0-3][0-9]$"}),
    "a list of texts": obj(tags=many(text(8))),
    "a list at the top": many({"enum": ["a", "b"]}, 4, 1),
    "a list of lists": many(many(WHOLE, 2), 2),
    "nested three deep": obj(a=obj(b=obj(c=WHOLE))),
    "a list of objects": obj(points=many(POINT, 3, 1)),
    "either of two": obj(value={"anyOf": [text(6), WHOLE]}),
    "a reference": {
        "$defs": {"point": POINT},
        "type": "object",
        "properties": {"from": {"$ref": "#/$defs/point"}, "to": {"$ref": "#/$defs/point"}},
        "required": ["from", "to"],
        "additionalProperties": False,
    },
    "an optional one": {
        "type": "object",
        "properties": {"a": WHOLE, "b": text(5)},
        "required": ["a"],
        "additionalProperties": False,
    },
    "a pair": {"type": "array", "prefixItems": [WHOLE, {"type": "boolean"}], "items": False, "minItems": 2},
    "a person": obj(name=text(16), age=WHOLE, mail={"type": "string", "pattern": "^[a-z]{1,8}@[a-z]{1,8}\\.org$"}),
    "an order": obj(id=WHOLE, lines=many(obj(item=text(8), count=WHOLE, price={"type": "number", "minimum": 0, "maximum": 99, "multipleOf": 0.25}), 2, 1)),
}

deep = {}
for _ in range(60):
    deep = {"type": "array", "items": deep}
ABSURD = {
    "no type": {"type": "nothing"},
    "a reference to nowhere": {"$ref": "#/$defs/none"},
    "nothing fits": {"type": "integer", "minimum": 5, "maximum": 4},
    "a broken pattern": obj(a={"type": "string", "pattern": "("}),
    "a list as a schema": ["a"],
    "a hundred kilobytes": {"enum": ["x" * 100_000]},
}
# These can be followed, or not: either way it takes no longer than an answer.
COSTLY = {
    "a pattern of patterns": obj(a={"type": "string", "pattern": "^((((a{1,200}){1,200}){1,200}){1,200}){1,200}$"}),
    "sixty deep": deep,
    "three hundred patterns": {"anyOf": [obj(a={"type": "string", "pattern": f"^(a|b){{{n}}}c$"}) for n in range(300)]},
}


def asked(at, schema, seed):
    return at.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Answer with JSON about something you like."}],
        response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": schema, "strict": True}},
        temperature=1.0,
        seed=seed,
        max_tokens=600,
    )


@check
def answers_parse_and_validate():
    async def run():
        at, turn = client(), asyncio.Semaphore(16)

        async def one(name, schema, seed):
            async with turn:
                answer = (await asked(at, schema, seed)).choices[0]
            assert answer.finish_reason == "stop", (name, seed, answer)
            try:
                value = json.loads(answer.message.content)
                Draft202012Validator(schema).validate(value)
            except Exception as error:
                raise AssertionError(f"{name}, seed {seed}: {answer.message.content!r}: {error}") from error
            return answer.message.content

        return await asyncio.gather(*[one(name, schema, seed) for name, schema in SCHEMAS.items() for seed in range(10)])

    texts = asyncio.run(run())
    print(f"{len(texts)} answers over {len(SCHEMAS)} schemas validate, {len(set(texts))} different")
    assert len(texts) == 200 and len(set(texts)) > 100


async def said(at, schema):
    """How an answer ended, or why it was refused, and how long that took."""
    begun = time.monotonic()
    try:
        told = (await asked(at, schema, 1)).choices[0].finish_reason
    except openai.BadRequestError as error:
        told = f"refused: {str(error)[:120]}"
    return told, time.monotonic() - begun


@check
def schemas_that_can_not_be_met_are_refused_soon():
    async def run():
        at = client()
        for name, schema in ABSURD.items():
            told, took = await said(at, schema)
            print(f"{took:.2f} s: {name}: {told}")
            assert told.startswith("refused") and took < 10, (name, told, took)

    asyncio.run(run())


@check
def costly_schemas_take_no_longer_than_an_answer():
    async def run():
        at = client()
        for name, schema in COSTLY.items():
            told, took = await said(at, schema)
            print(f"{took:.2f} s: {name}: {told}")
            assert took < 30, (name, took)

    asyncio.run(run())


# A request's speed beside other tests says most about these: they can only take from it. So the fastest with a grammar
# is held against the fastest without, alternating; as many as it takes for both to have had a quiet moment, and no more.
LEAST, MOST, SHARE = 7, 25, 0.9


@check
def a_grammar_costs_at_most_a_tenth_of_decode_speed():
    async def run():
        at = client()

        async def speed(form):
            begun = time.monotonic()
            answer = await at.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": "Tell me something."}],
                temperature=1.0,
                seed=1,
                max_tokens=160,
                **form,
            )
            took, count = time.monotonic() - begun, answer.usage.completion_tokens
            assert count == 160, count
            return count / took

        long = {"type": "array", "items": obj(name=text(20), size=WHOLE, flag={"type": "boolean"}), "minItems": 50}
        form = {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": long}}}
        # An end-of-sequence id would make the free ones short: a bias forbids it.
        free = {"logit_bias": {"2": -100}}
        await speed(form), await speed(free)
        held, loose = [], []
        while len(held) < LEAST or (len(held) < MOST and max(held) < SHARE * max(loose)):
            held.append(await speed(form))
            loose.append(await speed(free))
        ratio, ratios = max(held) / max(loose), sorted(a / b for a, b in zip(held, loose))
        print(
            f"decode speed with a grammar: {ratio:.3f} of that without, the fastest of {len(held)} each; "
            f"pair by pair {ratios[len(ratios) // 2]:.3f} at the median ({ratios[0]:.3f} to {ratios[-1]:.3f})"
        )
        assert ratio >= SHARE, ratio

    asyncio.run(run())


run_all()
