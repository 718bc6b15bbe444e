"""Options in a request's query: numbers, flags, and how a write is to be done."""

from __future__ import annotations

from typing import Literal

from starlette.requests import Request

from knative.local.apiserver.errors import bad_request
from knative.local.apiserver.validation import WriteOptions

_MAX_DIGITS = 19
"""Of a 64-bit number."""
_MAX_MANAGER = 128
"""Characters of a field manager's name, as in Kubernetes."""


def number(request: Request, name: str) -> int | None:
    """A whole number that is not negative, or None if there is none.

    Raises:
        ApiError: 400, it is something else.
    """
    text = request.query_params.get(name)
    if not text:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > _MAX_DIGITS:
        raise bad_request(f"{name}: Invalid value: {text!r}: must be a whole number")
    return int(text)


def flag(request: Request, name: str) -> bool:
    """Whether a parameter is set to something true."""
    return request.query_params.get(name, "").lower() in ("1", "true")


def write_options(request: Request, operation: Literal["Apply", "Update"] = "Update") -> WriteOptions:
    """How a write is to be done.

    Raises:
        ApiError: 400, an option has a value that doesn't exist, or an apply names no field manager.
    """
    query = request.query_params
    validation = query.get("fieldValidation") or "Warn"
    if validation not in ("Strict", "Warn", "Ignore"):
        raise bad_request(f'fieldValidation: Unsupported value: "{validation}": "Ignore", "Strict", "Warn"')
    dry_run = query.getlist("dryRun")
    if any(value not in ("", "All") for value in dry_run):
        raise bad_request(f'dryRun: Unsupported value: "{dry_run[-1]}": supported values: "All"')
    manager = query.get("fieldManager")
    if operation == "Apply" and not manager:
        raise bad_request("fieldManager: Required value: is required for apply patch")
    if manager and len(manager) > _MAX_MANAGER:
        raise bad_request(f"fieldManager: Too long: may not be more than {_MAX_MANAGER} bytes")
    agent = request.headers.get("user-agent", "").partition("/")[0]
    return WriteOptions(
        manager=manager or agent[:_MAX_MANAGER] or "unknown",
        operation=operation,
        dry_run=any(dry_run),
        field_validation=validation,  # type: ignore[arg-type]  # checked above
    )
