"""Durable runs of an agent, as its caller sees them over the function URL."""

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp

from transport.sse import EventParser


class RunError(RuntimeError):
    """The agent refused, or could not be reached; the text says why."""


class RunsClient:
    """The runs of one orchestrate stage.

    Args:
        session: for the calls.
        url: of the stage.
        headers: with the caller's key.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str, headers: Mapping[str, str]) -> None:
        self._session = session
        self._url = url.rstrip("/")
        self._headers = dict(headers)

    async def ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """An answer of the stage.

        Raises:
            RunError: a problem, or no answer.
        """
        try:
            async with self._session.request(
                method, f"{self._url}/{path}", json=body, headers=self._headers
            ) as response:
                text = await response.text()
                if response.status >= 400:
                    raise RunError(_problem(response.status, text))
                document: dict[str, Any] = json.loads(text)
                return document
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise RunError(f"{self._url}: {error}") from error

    async def events(self, run_id: str, after: int = 0) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """The run's events behind one, as name and content, until it ends or waits. Raises as `ask`."""
        headers = {**self._headers, "Last-Event-ID": str(after)}
        try:
            async with self._session.get(f"{self._url}/runs/{run_id}/events", headers=headers) as response:
                if response.status >= 400:
                    raise RunError(_problem(response.status, await response.text()))
                parser = EventParser()
                async for piece in response.content.iter_any():
                    for event in parser.feed(piece):
                        if event.data:
                            yield event.name, json.loads(event.data)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise RunError(f"{self._url}: {error}") from error


def _problem(status: int, body: str) -> str:
    try:
        problem = json.loads(body)
        return f"{status} {problem.get('title', '')}: {problem.get('detail', '')}"
    except (ValueError, AttributeError):
        return f"{status}: {body[:300]}" + (
            " (no durable runs there? they need `runs` in the config of orchestrate)" if status == 404 else ""
        )


def waits_for(run: Mapping[str, Any]) -> str:
    """What a run waits for, or works on, in a few words."""
    waiting = run.get("waiting_for")
    if waiting is None:
        return str(run.get("working_on") or "")
    until = waiting.get("until")
    if waiting["kind"] == "approval":
        return f"approval of {waiting['step']}"
    return f"{waiting['step']} again at {until}" if until else str(waiting["step"])
