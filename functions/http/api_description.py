"""What the description of a stage's API (`/openapi.json`) says beyond what the framework finds out by itself.

Bodies and errors do not pass through the framework's models: `/invoke` reads its own body, and every error is
a problem of RFC 9457. Here is what they are.
"""

from typing import Any

from pydantic.json_schema import models_json_schema

from functions.contract import Problem, StageReply, StageRequest
from functions.problems import MEDIA_TYPE, phrase

_SCHEMA = "#/components/schemas/{model}"
_WHEN = {
    400: "Not JSON, a header that cannot be read, or a request that the engine refuses",
    401: "No valid key or token; `WWW-Authenticate` says which",
    403: "A key that does not suffice, or the page of another site, whose origin is not allowed",
    404: "No such path, or no such model",
    408: "The request did not arrive in time",
    413: "The body or the input is too long; `over` says how many `unit` too many",
    415: "The body is not JSON",
    422: "A member that does not fit, an empty input, or output that is not the JSON asked for",
    429: "More requests than the replica or its engine takes, or than the key may send",
    500: "A bug; the log has the details under the request id",
    501: "The engine does not offer this operation",
    502: "A stage or an engine answered outside the contract",
    503: "Not ready, failed, stopped, or unreachable",
    504: "The deadline passed",
}

INVOKE_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The reply; with `stream` the events `delta`, then `reply` or `error`",
        # OpenAPI 3.1 has no way to say what one event of a stream is.
        "content": {"text/event-stream": {"schema": {}}},
    },
    **{status: {} for status in _WHEN if status != 404},
}
"""Of `/invoke`; `describe` completes the errors."""
INVOKE_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": _SCHEMA.format(model="StageRequest")}}},
    }
}


def describe(document: dict[str, Any], *, accepts_empty_input: bool) -> dict[str, Any]:
    """The description with the contract's schemas, and a problem for every error of every operation.

    Args:
        document: as the framework has made it; changed in place.
        accepts_empty_input: of `/invoke`.
    """
    models = [(StageRequest, "validation"), (StageReply, "serialization"), (Problem, "serialization")]
    _, definitions = models_json_schema(models, ref_template=_SCHEMA)  # type: ignore[arg-type]
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas.update(definitions["$defs"])
    if not accepts_empty_input:
        text = schemas["StageRequest"]["properties"]["input"]["oneOf"][0]
        text["minLength"] = 1
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if method in {"get", "post", "put", "patch", "delete"}:
                _add_problems(operation["responses"], probe=path.startswith("/healthz") or path == "/metrics")
    schemas.pop("HTTPValidationError", None)
    schemas.pop("ValidationError", None)
    return document


def _add_problems(responses: dict[str, Any], *, probe: bool) -> None:
    content = {MEDIA_TYPE: {"schema": {"$ref": _SCHEMA.format(model="Problem")}}}
    for status, response in responses.items():
        if status.isdigit() and int(status) >= 400 and not (probe and status == "503"):
            responses[status] = {
                **response,
                "description": _WHEN.get(int(status), phrase(int(status))),
                "content": content,
            }
    if not probe:
        responses["default"] = {"description": "Any other error", "content": content}
