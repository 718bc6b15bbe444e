"""`POST /v1/chat/completions` and `GET /v1/models` of a stage that answers whole conversations."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from functions.chat_api.chat_answer import ChatAnswer
from functions.chat_api.chat_request import ChatBody, StreamOptions, parse_chat
from functions.contract import StageEvent, StageReply, StageRequest
from functions.http.app import context_of
from functions.http.asgi_response import AsgiResponse
from functions.http.invocation import Invocation
from functions.metrics import Metrics
from functions.stage import Stage

PATH = "/v1/chat/completions"


class ChatFormat:
    """One request and its answer in OpenAI's form; see `functions.http.answer_format.AnswerFormat`.

    Args:
        names: by which clients may call the agent; the first one is its own.
        created: seconds since the epoch.
    """

    path = PATH

    def __init__(self, names: tuple[str, ...], created: int) -> None:
        self._names = names
        self._created = created
        self._answer = ChatAnswer("", model=names[0], created=created)

    def parse(self, body: bytes, *, request_id: str) -> StageRequest:
        """See `AnswerFormat.parse`."""
        chat = parse_chat(body, names=frozenset(self._names))
        request = chat.as_stage_request(request_id)
        options = chat.stream_options
        self._answer = ChatAnswer(
            request.id,
            model=chat.model or self._names[0],
            created=self._created,
            include_usage=options is not None and options.include_usage,
        )
        return request

    def whole(self, reply: StageReply) -> bytes:
        """See `AnswerFormat.whole`."""
        return self._answer.whole(reply)

    def event(self, event: StageEvent) -> bytes:
        """See `AnswerFormat.event`."""
        return self._answer.event(event)


def chat_router(stage: Stage, metrics: Metrics, names: tuple[str, ...]) -> APIRouter:
    """Both routes.

    Args:
        stage: answers; its `invoke` gets the conversation.
        metrics: where generations are counted.
        names: by which clients may call the agent; the first one is its own.
    """
    router = APIRouter(tags=["openai"])
    started = int(time.time())

    @router.get("/v1/models")
    async def models() -> dict[str, Any]:
        """List the agent, which is what clients call a model."""
        card = {"id": names[0], "object": "model", "created": started, "owned_by": "pilotlight"}
        return {"object": "list", "data": [card]}

    @router.post(PATH, openapi_extra=_BODY, response_model=None, responses=_RESPONSES)
    async def chat(request: Request) -> Response:
        """Answer a conversation by the whole agent; with `"stream": true` as chunks."""
        chat_format = ChatFormat(names, int(time.time()))
        return AsgiResponse(Invocation(stage, metrics, context_of(request), chat_format))

    return router


def _body_schema() -> dict[str, Any]:
    """JSON Schema of the body; the definitions stand in the API's description, for `StageRequest`."""
    schema = ChatBody.model_json_schema(ref_template="#/components/schemas/{model}")
    own = schema.pop("$defs")[StreamOptions.__name__]
    schema["properties"]["stream_options"] = {**own, "description": StreamOptions.__doc__}
    return schema


_BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": _body_schema()}}}}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "OpenAI's chat completion; with `stream` its chunks, then `[DONE]`",
        "content": {"application/json": {"schema": {"type": "object"}}, "text/event-stream": {"schema": {}}},
    },
    **{status: {} for status in (400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 502, 503, 504)},
}
