"""`POST /v1/embeddings` and `GET /v1/models` for OpenAI's clients, answered by an `Engine`.

For engines that have no server of their own.
"""

import base64
import struct
import time
from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from functions.engine import EmbedRequest, Engine
from functions.http.app import context_of
from functions.http.bounded_route import BoundedRoute
from functions.problems import ProblemError

MAX_INPUTS = 2048
"""Texts in one request; OpenAI's own limit."""


class EmbeddingsBody(BaseModel):
    """A request for embeddings. Token ids as input are not supported."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    input: str | Annotated[list[str], Field(min_length=1, max_length=MAX_INPUTS)]
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None


def embeddings_router(engine: Callable[[], Engine], model: str) -> APIRouter:
    """Both routes.

    Args:
        engine: called for each request; may raise EngineError.
        model: the name that clients call the model by.
    """
    router = APIRouter(route_class=BoundedRoute)
    created = int(time.time())

    @router.get("/v1/models", tags=["openai"])
    async def models() -> dict[str, Any]:
        """List the model."""
        card: dict[str, Any] = {"id": model, "object": "model", "created": created, "owned_by": "pilotlight"}
        if (length := engine().info.max_model_len) is not None:
            card["max_model_len"] = length
        return {"object": "list", "data": [card]}

    @router.post("/v1/embeddings", tags=["openai"])
    async def embeddings(body: EmbeddingsBody, request: Request) -> dict[str, Any]:
        """Compute one vector for each input, in order."""
        if body.model not in {None, model}:
            raise ProblemError(404, f"model = {body.model!r}, must be {model!r}", title="No such model")
        if body.dimensions is not None:
            raise ProblemError(
                422,
                f"dimensions = {body.dimensions}: the model's vectors have a fixed length; must be left out",
            )
        inputs = (body.input,) if isinstance(body.input, str) else tuple(body.input)
        empty = next((at for at, text in enumerate(inputs) if not text), None)
        if empty is not None:
            raise ProblemError(422, f"input[{empty}] is empty, must be a text")
        result = await engine().embed(EmbedRequest(context_of(request).request_id, inputs))
        context_of(request).usage = result.usage
        tokens = result.usage.prompt_tokens or 0
        return {
            "object": "list",
            "model": model,
            "data": [
                {"object": "embedding", "index": at, "embedding": _encoded(vector, body.encoding_format)}
                for at, vector in enumerate(result.vectors)
            ],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }

    return router


def _encoded(vector: tuple[float, ...], encoding: Literal["float", "base64"]) -> list[float] | str:
    if encoding == "float":
        return list(vector)
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
