"""Open-loop sending: each request at its own instant, whatever became of those before it.

Latencies count from the instant at which a request was due, so that a slow answer cannot delay the
requests behind it out of the measurement (coordinated omission); how late the sender itself was is
measured beside it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Final

import aiohttp

from pilotlight.replay.errors import ReplayError
from pilotlight.replay.exchange import Answer, Exchange, Prompts

FAILURES_IN_A_ROW: Final = 20
"""So many requests one after another that nobody answered, and the replay ends."""


@dataclass(frozen=True, slots=True)
class Planned:
    """One request of the plan.

    Attributes:
        index: in the trace.
        due_s: since the first request.
        input_tokens: of the prompt.
        output_tokens: to generate.
    """

    index: int
    due_s: float
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Sent:
    """A request with its answer; instants in seconds since the first request was due."""

    planned: Planned
    sent_s: float
    in_flight: int
    answer: Answer


@dataclass(slots=True)
class SenderState:
    """What the sender has done so far."""

    sent: int = 0
    answered: int = 0
    in_flight: int = 0
    held_back: int = 0
    """Requests that were due while the limit on requests in flight was reached."""
    unanswered: int = 0
    """Of the latest, how many in a row got no response of the function at all."""
    error: BaseException | None = None
    tasks: set[asyncio.Task[None]] = field(default_factory=set)


class Sender:
    """Sends a plan.

    Args:
        exchange: how each request is put.
        prompts: what is asked.
        max_in_flight: requests on their way at once, at most: the rest waits, and is late.
        on_answer: told of each answer as it is there.
    """

    def __init__(
        self,
        exchange: Exchange,
        prompts: Prompts,
        *,
        max_in_flight: int,
        on_answer: Callable[[Sent], None],
    ) -> None:
        self._exchange = exchange
        self._prompts = prompts
        self._slots = asyncio.Semaphore(max_in_flight)
        self._on_answer = on_answer
        self._halt = asyncio.Event()
        self.state = SenderState()

    async def run(
        self, session: aiohttp.ClientSession, plan: Sequence[Planned], *, origin: float, stop: asyncio.Event
    ) -> bool:
        """Send everything and wait for the answers; whether it was not stopped before.

        Args:
            session: without limits of its own.
            plan: in the order of `due_s`.
            origin: instant (`perf_counter`) at which the first is due.
            stop: ends the sending; requests on their way are abandoned.

        Raises:
            ReplayError: nobody answers any more.
            OSError: an answer could not be recorded.
        """
        stopping = asyncio.create_task(self._stopping(stop))
        try:
            complete = await self._dispatch(session, plan, origin, stopping)
            if complete and self.state.tasks:
                done = asyncio.create_task(self._all_ended())
                await asyncio.wait({done, stopping}, return_when=asyncio.FIRST_COMPLETED)
                complete = done.done()
                done.cancel()
        finally:
            stopping.cancel()
            left = list(self.state.tasks)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, stopping, return_exceptions=True)
        if self.state.error is not None:
            raise self.state.error
        return complete

    async def _dispatch(
        self,
        session: aiohttp.ClientSession,
        plan: Sequence[Planned],
        origin: float,
        stopping: asyncio.Task[None],
    ) -> bool:
        state = self.state
        for planned in plan:
            wait = origin + planned.due_s - perf_counter()
            if wait > 0:
                await asyncio.wait({stopping}, timeout=wait)
            if self._slots.locked():
                state.held_back += 1
                acquiring = asyncio.create_task(self._slots.acquire())
                await asyncio.wait({acquiring, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if not acquiring.done():
                    acquiring.cancel()
                    return False
            else:
                await self._slots.acquire()
            if stopping.done():
                return False
            task = asyncio.create_task(self._one(session, planned, origin))
            state.tasks.add(task)
            task.add_done_callback(self._ended)
        return True

    async def _all_ended(self) -> None:
        while self.state.tasks:
            await asyncio.wait(self.state.tasks)

    async def _stopping(self, stop: asyncio.Event) -> None:
        waits = {asyncio.create_task(event.wait()) for event in (stop, self._halt)}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.state.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if self.state.error is None:
            self.state.error = error
            self._halt.set()

    async def _one(self, session: aiohttp.ClientSession, planned: Planned, origin: float) -> None:
        state = self.state
        others = state.in_flight
        state.in_flight += 1
        state.sent += 1
        try:
            prompt = self._prompts.make(planned.input_tokens)
            sent_s = perf_counter() - origin
            answer = await self._exchange.send(session, prompt, planned.output_tokens)
        finally:
            state.in_flight -= 1
            self._slots.release()
        if answer.input_tokens is not None:
            self._prompts.learn(prompt, answer.input_tokens)
        self._count(answer)
        self._on_answer(Sent(planned, sent_s, others, answer))

    def _count(self, answer: Answer) -> None:
        state = self.state
        state.answered += 1
        refused = answer.status is not None and 400 <= answer.status < 500 and answer.status not in {408, 429}
        if answer.error is None or not (answer.unreachable or refused):
            state.unanswered = 0
            return
        state.unanswered += 1
        if state.unanswered >= FAILURES_IN_A_ROW:
            self._fail(
                ReplayError(
                    f"{self._exchange.url}: {FAILURES_IN_A_ROW} requests in a row failed, "
                    f"the last one: {answer.error}"
                )
            )
