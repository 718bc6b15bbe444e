"""How long one call of a stage may take (`callSeconds`), streamed or not."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from functions.calls.streaming import Events
from functions.problems import ProblemError


async def within(events: Events, name: str, seconds: float) -> Events:
    """The events, unless they take longer.

    Raises:
        ProblemError: they do.
    """
    end = asyncio.get_running_loop().time() + seconds
    async with aclosing(events) as stream:
        while True:
            # Around each event, for a limit around a generator would reach into who reads it.
            try:
                async with asyncio.timeout_at(end) as limit:
                    event = await anext(stream, None)
            except TimeoutError:
                if not limit.expired():
                    raise
                raise too_slow(name, seconds) from None
            if event is None:
                return
            yield event


def too_slow(name: str, seconds: float) -> ProblemError:
    """What is said of a stage that took longer."""
    return ProblemError(
        504,
        f"stage {name} did not answer within {seconds:g} s (callSeconds)",
        title="Stage too slow",
        stage=name,
    )
