"""The OpenAPI document against a live router: it is valid, what GET gives is what it says, and a fuzzer that reads it finds
neither an error of the server nor a hang. Argument 1 is the router's address, argument 2 a seed.
"""

import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections import Counter

from checks import check, run_all
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

ADDRESS, SEED = sys.argv[1], sys.argv[2]
BASE = f"http://{ADDRESS}"


def get(path):
    with urllib.request.urlopen(f"{BASE}{path}", timeout=30) as answer:
        return json.load(answer)


document = get("/openapi.json")


def closed(schema):
    """The schema with nothing allowed that it does not name."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {name: closed(value) for name, value in schema.items()}
    if schema.get("type") == "object" and "properties" in schema:
        schema.setdefault("additionalProperties", False)
    return schema


@check
def the_document_is_valid():
    validate(document)
    assert len(document["paths"]) >= 12, document["paths"].keys()


@check
def answers_to_get_are_what_the_document_says_and_no_more():
    strict = {"components": closed(document["components"])}
    model = get("/v1/models")["data"][0]["id"]
    seen = 0
    for path, operations in document["paths"].items():
        if "get" not in operations:
            continue
        said = operations["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        Draft202012Validator({**said, **strict}).validate(get(path.replace("{model}", model)))
        seen += 1
    assert seen >= 5, seen


# Valid data may be refused for reasons that no schema can tell (a prompt that is longer than the context, a model that
# nobody serves), so that `positive_data_acceptance` is left out. `no_fault` is `not_a_server_error` but for a deadline of the
# request's own that has passed, and a class that it names and no node has: those are 504 and 503 by intent.
HOOKS = '''
import json
import schemathesis

@schemathesis.check
def no_fault(ctx, response, case):
    with open("cases", "a") as cases:
        cases.write(case.operation.label + "\\n")
    if response.status_code < 500:
        return
    code = json.loads(response.content)["error"]["code"]
    body = case.body if isinstance(case.body, dict) else {}
    wanted = (code == "deadline_exceeded" and body.get("deadline_ms")) or (code == "no_route" and body.get("numerics"))
    assert wanted, f"{response.status_code} {code}"
'''
# A body that is too large is refused with 413, which the fuzzer does not expect of itself; 5xx are `no_fault`'s.
SETTINGS = """
[checks]
negative_data_rejection.expected-statuses = ["400", "401", "403", "404", "405", "408", "409", "413", "429", "5xx"]
"""
CHECKS = [
    "no_fault",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "allow_header_conformance",
]
# What a machine does in the time on which seven others compile: a quiet one has some thousands of cases, and 100 and more of
# every endpoint that takes a body. What takes none has a handful to begin with.
LEAST, LEAST_OF_A_BODY, LEAST_OF_ANY = 700, 15, 2
# Seconds; a machine that does not come to the least within the first has the second, too.
TIMES = [60, 180]


def fuzz(folder, seconds):
    """Runs the fuzzer for so long at most: how many cases of each operation there were, this time or before."""
    fuzzer = [sys.executable, "-m", "schemathesis.cli", "run", f"{BASE}/openapi.json", "--checks", ",".join(CHECKS)]
    fuzzer += ["--phases", "examples,coverage,fuzzing", "--mode", "all", "--seed", SEED, "--max-examples", "60"]
    fuzzer += ["--max-time", str(seconds), "--request-timeout", "30", "--max-response-time", "20"]
    # With two workers Python 3.11 fails now and then as it makes up a case ("AST constructor recursion depth mismatch").
    fuzzer += ["--workers", "1"]
    fuzzer += ["--continue-on-failure", "--no-color", "--warnings", "off", "--suppress-health-check", "all"]
    paths = f"{folder}:{os.environ['PYTHONPATH']}"
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": paths}
    ran = subprocess.run(fuzzer, cwd=folder, env=environment, capture_output=True, text=True, timeout=seconds + 120)
    # Bodies may be long.
    print("\n".join(line[:600] for line in (ran.stdout + ran.stderr).splitlines()))
    assert ran.returncode == 0, ran.returncode
    with open(os.path.join(folder, "cases")) as cases:
        counted = Counter(cases.read().splitlines())
    print(f"{counted.total()} cases:", ", ".join(f"{label} {count}" for label, count in sorted(counted.items())))
    return counted


def lacking(counted):
    """What there were too few cases of."""
    if counted.total() < LEAST:
        yield f"{counted.total()} cases in all, {LEAST} are the least"
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            least = LEAST_OF_A_BODY if "requestBody" in operation else LEAST_OF_ANY
            label = f"{method.upper()} {path}"
            if counted[label] < least:
                yield f"{label}: {counted[label]} cases, {least} are the least"


@check
def a_fuzzer_finds_no_fault_and_no_hang():
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "hooks.py"), "w") as hooks:
            hooks.write(HOOKS)
        with open(os.path.join(folder, "schemathesis.toml"), "w") as settings:
            settings.write(SETTINGS)
        for seconds in TIMES:
            few = list(lacking(fuzz(folder, seconds)))
            if not few:
                break
    assert not few, few


run_all()
