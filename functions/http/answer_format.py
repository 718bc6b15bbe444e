"""How a request for a stage's work is written, and its answer: the contract's own form.

Other forms of the same work, such as OpenAI's, offer the same interface.
"""

from __future__ import annotations

from typing import Protocol

from pydantic import ValidationError

from functions.contract import StageEvent, StageReply, StageRequest, encode_event
from functions.problems import ProblemError, field_errors, invalid


class AnswerFormat(Protocol):
    """The form of one request and of its answer; made anew for each."""

    @property
    def path(self) -> str:
        """Of the request; decides how an error is written."""
        ...

    def parse(self, body: bytes, *, request_id: str) -> StageRequest:
        """The request in a body; without an id of its own it takes `X-Request-Id`.

        Raises:
            ProblemError: 400 for a body that is not JSON, 422 for one that does not fit.
        """
        ...

    def whole(self, reply: StageReply) -> bytes:
        """The reply as JSON."""
        ...

    def event(self, event: StageEvent) -> bytes:
        """What of the stream an event is; may be nothing. With the reply or a failure, the stream's end."""
        ...


class ContractFormat:
    """`functions.contract` as it is.

    Args:
        accepts_empty_input: whether the stage takes an empty text.
    """

    path = "/invoke"

    def __init__(self, *, accepts_empty_input: bool) -> None:
        self._accepts_empty_input = accepts_empty_input

    def parse(self, body: bytes, *, request_id: str) -> StageRequest:
        """See `AnswerFormat.parse`."""
        return parse_request(body, request_id=request_id, accepts_empty_input=self._accepts_empty_input)

    def whole(self, reply: StageReply) -> bytes:
        """See `AnswerFormat.whole`."""
        return reply.model_dump_json(exclude_none=True).encode()

    def event(self, event: StageEvent) -> bytes:
        """See `AnswerFormat.event`."""
        return encode_event(event)


def parse_request(body: bytes, *, request_id: str, accepts_empty_input: bool = True) -> StageRequest:
    """The request in a body; without an `id` it takes `X-Request-Id`.

    Raises:
        ProblemError: 400 for a body that is not JSON, 422 for one that does not fit the contract.
    """
    try:
        request = StageRequest.model_validate_json(body)
    except ValidationError as error:
        raise unreadable(error) from None
    check_input(request, accepts_empty_input=accepts_empty_input)
    if "id" not in request.model_fields_set:
        return request.model_copy(update={"id": request_id})
    return request


def check_input(request: StageRequest, *, accepts_empty_input: bool) -> None:
    """Refuse what the contract allows some stages only.

    Raises:
        ProblemError: 422 for an empty text.
    """
    if request.input == "" and not accepts_empty_input:
        raise ProblemError(
            422,
            "input is empty, must be a text of at least one character",
            title="Empty input",
            errors=[{"field": "input", "message": "must be a text of at least one character", "value": ""}],
        )


def unreadable(error: ValidationError) -> ProblemError:
    """The problem with a body: 400 where it is not JSON, else 422."""
    first = error.errors(include_url=False, include_context=False)[0]
    if first["type"] != "json_invalid":
        return invalid(error)
    return ProblemError(
        400, f"the body is not JSON: {first['msg']}", errors=field_errors([{**first, "input": None}])
    )
