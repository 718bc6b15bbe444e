"""`/openapi.json` says what a stage takes and answers, errors included; and validation errors say what is right."""

import json

import jsonschema
import pytest

from functions.http.app import create_app
from functions.problems import ProblemError
from functions.settings import FunctionSettings, StageAddress
from functions.stages import ingest, orchestrate, postprocess
from tests.functions.servers import echo, scripted, serving, wait_ready

CALL = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
SETTINGS = FunctionSettings(stages=(StageAddress("m", "generate", "http://m"),))
STAGES = {"ingest": ingest.build, "postprocess": postprocess.build, "orchestrate": orchestrate.build}


def document(kind):
    return create_app(STAGES[kind](SETTINGS), SETTINGS).api.openapi()


def check(described, schema, value):
    """Validate a value by a schema of the document."""
    jsonschema.validate(value, {**schema, "components": described["components"]})


def reference(name):
    return {"$ref": f"#/components/schemas/{name}"}


@pytest.mark.parametrize("kind", STAGES)
def test_every_reference_is_defined_and_every_operation_has_its_errors(kind):
    described = document(kind)
    text = json.dumps(described)
    for name in {part.split('"')[0] for part in text.split('"#/components/schemas/')[1:]}:
        assert name in described["components"]["schemas"], name
    for path, operations in described["paths"].items():
        for operation in operations.values():
            responses = operation["responses"]
            if path.startswith("/healthz"):
                assert {"200", "503"} <= set(responses)
            elif path != "/metrics":
                assert (
                    reference("Problem")
                    == (responses["default"]["content"]["application/problem+json"]["schema"])
                )
    invoke = described["paths"]["/invoke"]["post"]["responses"]
    statuses = "200 400 401 403 408 413 415 422 429 500 501 502 503 504 default"
    assert sorted(invoke) == sorted(statuses.split())
    assert set(invoke["200"]["content"]) == {"application/json", "text/event-stream"}
    assert set(described["paths"]["/metrics"]["get"]["responses"]["200"]["content"]) == {"text/plain"}


@pytest.mark.parametrize("kind", STAGES)
@pytest.mark.parametrize(
    ("request_body", "valid"),
    [
        ({"input": "x"}, True),
        ({"input": [{"role": "user", "content": ""}]}, True),
        ({"input": "x", "parameters": {"stop": "a"}}, True),
        ({"input": "x", "parameters": {"stop": ["a", "b"]}}, True),
        ({"input": "x", "segment": {"carry": None, "final": False}}, True),
        ({"input": []}, False),
        ({"input": 3}, False),
        ({"input": [{"role": "developer", "content": [{"type": "text", "text": "x"}]}]}, True),
        ({"input": [{"role": "assistant", "tool_calls": [CALL]}]}, True),
        ({"input": [{"role": "tool", "content": "4", "tool_call_id": "call_1"}]}, True),
        ({"input": "x", "parameters": {"tools": [TOOL], "tool_choice": "required"}}, True),
        ({"input": "x", "parameters": {"tools": [TOOL], "tool_choice": "always"}}, False),
        ({"input": [{"role": "critic", "content": "x"}]}, False),
        ({"input": [{"role": "user", "content": [{"type": "video", "video": "x"}]}]}, False),
        ({"input": "x", "parameters": {"max_tokens": 0}}, False),
        ({"input": "x", "more": 1}, False),
        ({}, False),
    ],
)
def test_the_schema_of_requests_takes_what_the_stage_takes(kind, request_body, valid):
    described = document(kind)
    if valid:
        check(described, reference("StageRequest"), request_body)
    else:
        with pytest.raises(jsonschema.ValidationError):
            check(described, reference("StageRequest"), request_body)


@pytest.mark.parametrize(("kind", "status"), [("ingest", 422), ("orchestrate", 422), ("postprocess", 200)])
async def test_an_empty_input_is_refused_by_stage_and_schema_alike(http, kind, status):
    app = create_app(STAGES[kind](SETTINGS), SETTINGS)
    async with serving(app) as url:
        await wait_ready(http, url)
        async with http.post(f"{url}/invoke", json={"input": ""}) as response:
            body = await response.json(content_type=None)
            assert response.status == status
        async with http.get(f"{url}/openapi.json") as response:
            described = await response.json()
    if status == 200:
        check(described, reference("StageRequest"), {"input": ""})
        check(described, reference("StageReply"), body)
        return
    check(described, reference("Problem"), body)
    assert body["errors"][0]["field"] == "input"
    with pytest.raises(jsonschema.ValidationError, match="non-empty"):
        check(described, reference("StageRequest"), {"input": ""})


@pytest.mark.parametrize("status", [400, 413, 422, 429, 500, 501, 502, 503, 504])
async def test_a_problem_has_the_form_that_is_described(http, status):
    def refuse(request, context):
        raise ProblemError(status, "no", retry_after=1.5, errors=[{"field": "a"}], extra={"over": 3})

    async with scripted(refuse) as (_, url):
        async with http.post(f"{url}/invoke", json={"input": "x"}) as response:
            body = await response.json(content_type=None)
        async with http.get(f"{url}/openapi.json") as response:
            described = await response.json()
    assert str(status) in described["paths"]["/invoke"]["post"]["responses"]
    check(described, reference("Problem"), body)


@pytest.mark.parametrize(
    ("request_body", "detail", "fields"),
    [
        (
            {"input": [{"role": "critic", "content": "Be brief."}, {"role": "user", "content": "Hi"}]},
            "input[0].role = 'critic': must be 'system', 'developer', 'user', 'assistant' or 'tool'",
            ["input[0].role"],
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "text", "text": 3}]}]},
            "input[0].content[0].text = 3: must be a text",
            ["input[0].content[0].text"],
        ),
        (
            {"input": [{"role": "user", "content": 3}]},
            "input[0].content = 3: must be a text, a list of parts, or null",
            ["input[0].content"],
        ),
        (
            {"input": [{"role": "tool", "content": "4"}]},
            (
                'input[0] = \'{"role": "tool", "content": "4"}\': tool_call_id must be given with role '
                "tool, and with no other"
            ),
            ["input[0]"],
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "video"}]}]},
            (
                'input[0].content[0] = \'{"type": "video"}\': must be an object of type text, refusal, image_url or '
                "input_audio"
            ),
            ["input[0].content[0]"],
        ),
        ({"input": 3}, "input = 3: must be a text or a list of messages", ["input"]),
        ({"input": []}, "input = '[]': must have at least 1 item", ["input"]),
        ({}, "input: is missing", ["input"]),
        ({"input": "x", "prompt": "y"}, "prompt = 'y': is not known here", ["prompt"]),
        (
            {"input": "x", "parameters": {"temperature": 3, "stop": ["a", ""]}},
            "parameters.temperature = 3: must be less than or equal to 2 (and 1 more)",
            ["parameters.temperature", "parameters.stop[1]"],
        ),
    ],
)
async def test_a_validation_error_names_the_field_the_value_and_what_would_be_right(
    http, request_body, detail, fields
):
    async with (
        scripted(echo("s")) as (_, url),
        http.post(f"{url}/invoke", json=request_body) as response,
    ):
        problem = await response.json(content_type=None)
    assert response.status == 422
    assert problem["detail"] == detail
    assert [error["field"] for error in problem["errors"]] == fields
