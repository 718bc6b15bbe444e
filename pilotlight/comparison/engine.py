"""Requests to a replica: tokens of a prompt, an answer token by token, and what is predicted for a text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import numpy as np

from pilotlight.comparison.errors import CompareError
from pilotlight.comparison.prompts import Prompt
from pilotlight.comparison.replica import NAME
from pilotlight.comparison.scores import Place

_TIMEOUT = aiohttp.ClientTimeout(total=3600, connect=30)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model generated, and how many tokens that were."""

    tokens: tuple[int, ...]


class Engine:
    """The HTTP API of one replica.

    Args:
        session: sends the requests.
        url: of the replica.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def tokenize(self, prompt: Prompt) -> list[int]:
        """The tokens of a prompt, a chat in its template.

        Raises:
            CompareError: the model cannot take it.
        """
        answer = await self._post("/tokenize", {"model": NAME, **prompt.request()})
        return [int(token) for token in answer["tokens"]]

    async def generate(self, tokens: Sequence[int], count: int, *, to_the_end: bool = False) -> Answer:
        """The most probable continuation of some tokens.

        Args:
            tokens: of the prompt.
            count: tokens at most.
            to_the_end: go on behind the token that ends an answer, so that all answers are equally long.
        """
        body = {"prompt": list(tokens), "max_tokens": count, "temperature": 0, "return_token_ids": True}
        answer = await self._post("/v1/completions", {"model": NAME, **body, "ignore_eos": to_the_end})
        return Answer(tuple(int(token) for token in answer["choices"][0]["token_ids"]))

    async def predictions(self, tokens: Sequence[int], top: int) -> list[Place]:
        """What is predicted for every token but the first.

        Args:
            tokens: of a text.
            top: how many of the most probable tokens are named for each place.
        """
        body = {"prompt": list(tokens), "max_tokens": 1, "temperature": 0, "prompt_logprobs": top}
        answer = await self._post("/v1/completions", {"model": NAME, **body})
        places = answer["choices"][0]["prompt_logprobs"]
        return [_place(token, entry) for token, entry in zip(tokens[1:], places[1:], strict=True)]

    async def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        try:
            async with self._session.post(self._url + path, json=body, timeout=_TIMEOUT) as response:
                content = await response.read()
                if response.status == 200:
                    answer: dict[str, Any] = json.loads(content)
                    return answer
                raise CompareError(f"the model refuses {path}: {_reason(content)}")
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, IndexError) as error:
            raise CompareError(
                f"the replica does not answer {path}: {error or type(error).__name__}"
            ) from error


def _place(token: int, entry: dict[str, dict[str, Any]]) -> Place:
    ids = np.fromiter((int(key) for key in entry), np.int32, len(entry))
    logprobs = np.fromiter((value["logprob"] for value in entry.values()), np.float32, len(entry))
    return Place(token, float(entry[str(token)]["logprob"]), ids, logprobs)


def _reason(content: bytes) -> str:
    try:
        value = json.loads(content)
        error = value.get("error", value)
        return str(error.get("message") or error.get("detail") or error)
    except (ValueError, AttributeError):
        return content[:200].decode(errors="replace")
