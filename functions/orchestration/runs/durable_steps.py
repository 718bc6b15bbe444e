"""The steps of one durable run: a step that is recorded is given again, any other is called and recorded."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from functions.calls.failures import CircuitOpenError
from functions.contract import Problem
from functions.orchestration.runs.config import RunsConfig
from functions.orchestration.runs.errors import LeaseLostError
from functions.orchestration.runs.step_recorder import StepRecorder
from functions.orchestration.runs.values import (
    APPROVAL,
    MAX_STEP_NAME,
    Hold,
    Step,
    StepState,
    retry_delay,
    step_key,
    waits_for_approval,
)
from functions.orchestration.steps import StepRefusedError
from functions.problems import ProblemError

if TYPE_CHECKING:
    from functions.orchestration.runs.store import RunStore

R = TypeVar("R")


class Codec(Protocol):
    """How the result of a step becomes a text, and a text a result."""

    def dump(self, result: Any) -> str:
        """The result as JSON."""
        ...

    def load(self, text: str) -> Any:
        """The result of `dump`."""
        ...

    def usage(self, result: Any) -> Mapping[str, int]:
        """Tokens by kind that the step has cost."""
        ...


class RunInterruptedError(BaseException):
    """The run stops here for now. No `Exception`: what handles failures of stages must not handle this."""


@dataclass(slots=True)
class Interruption:
    """Why a run stops for now."""

    waiting_for: str | None
    """None: its replica stops, and the next one goes on at once."""
    wake_at: float | None = None


@dataclass(slots=True)
class Grip:
    """What a replica knows of a run that it works on.

    Attributes:
        until: when the lease ends, on the monotonic clock.
        renewed: set with each renewal, and when the run is lost.
    """

    hold: Hold
    until: float
    renewed: asyncio.Event = field(default_factory=asyncio.Event)
    lost: bool = False
    stopping: bool = False
    cancelled: bool = False
    working_on: set[str] = field(default_factory=set)

    def renew(self, until: float) -> None:
        """The lease holds until then."""
        self.until = until
        self._wake()

    def lose(self) -> None:
        """Another replica has the run."""
        self.lost = True
        self._wake()

    def stop(self) -> None:
        """Begin no further step."""
        self.stopping = True
        self._wake()

    def _wake(self) -> None:
        self.renewed.set()
        self.renewed = asyncio.Event()


class DurableSteps:
    """Runs the steps of one run; `functions.orchestration.steps.Steps`.

    Args:
        store: where they are recorded.
        grip: of the run.
        known: what is recorded already.
        config: bounds, waits and what of the content is kept.
        codec: of results.
        on_recorded: called after each record.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        store: RunStore,
        grip: Grip,
        known: Iterable[Step],
        *,
        config: RunsConfig,
        codec: Codec,
        on_recorded: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._grip = grip
        self.recorder = StepRecorder(store, grip.hold, on_recorded)
        self._known = {step.name: step for step in known}
        self._config = config
        self._codec = codec
        self._clock = clock
        self._guarded = frozenset(config.approve)
        self._done = sum(step.state is StepState.DONE for step in self._known.values())
        self._idle = asyncio.Event()
        self._idle.set()
        self.interruption: Interruption | None = None
        """Set before `RunInterruptedError` is raised."""

    async def run(self, name: str, call: Callable[[str], Awaitable[R]]) -> R:
        """The recorded result of a step, or that of the call, which is recorded before the next call is made.

        Args:
            name: unique in the run, and the same each time that the run is taken up.
            call: does the step; gets its idempotency key.

        Raises:
            ProblemError: the step failed for good, or the run has too many.
            RunInterruptedError: the run waits, or its replica stops.
            LeaseLostError: another replica has the run.
        """
        if not 0 < len(name) <= MAX_STEP_NAME:
            raise ValueError(f"step name {name[:80]!r}: must have from 1 to {MAX_STEP_NAME} characters")
        known = self._known.get(name)
        if known is not None and known.state is StepState.DONE:
            again: R = self._again(known)
            return again
        if self._done >= self._config.max_steps:
            raise ProblemError(
                409,
                f"the run has made {self._config.max_steps} steps (runs.maxSteps)",
                title="Too many steps",
            )
        await self.recorder.flush()
        await self._hold_on()
        if waits_for_approval(name, self._guarded):
            await self._approved(name)
        return await self._work(name, 1 if known is None else known.attempts + 1, call)

    async def sleep_until(self, name: str, instant: float) -> None:
        """Return once an instant (seconds since the epoch) has come; until then nothing holds the run."""
        if self._clock() < instant:
            await self._interrupt(Interruption(f"timer {name}", instant))

    def _again(self, known: Step) -> Any:
        if known.result is None:
            raise ProblemError(
                500,
                f"the run cannot go on: the result of step {known.name} was not stored (runs.content)",
                title="Content not stored",
            )
        return self._codec.load(known.result)

    async def _work(self, name: str, attempt: int, call: Callable[[str], Awaitable[R]]) -> R:
        began = self._clock()
        self._grip.working_on.add(name)
        self._idle.clear()
        try:
            try:
                result = await call(step_key(self._grip.hold.run_id, name))
            except ProblemError as error:
                if isinstance(error, CircuitOpenError):
                    attempt -= 1  # the stage was not called, because it has failed for others
                await self._failed(name, attempt, began, error.problem)
                if not self._may_pass(error.problem, attempt):
                    raise
                failed: Problem | None = error.problem
            else:
                failed = None
                text = self._codec.dump(result)
                stored = None if self._config.content == "metadata" else text
                usage = json.dumps(self._codec.usage(result))
                step = Step(name, StepState.DONE, attempt, began, self._clock(), stored, usage=usage)
                self.recorder.keep(step)
                self._done += 1
                # Within this replica the result is known, stored or not.
                self._known[name] = Step(name, StepState.DONE, attempt, began, step.finished, text)
        finally:
            self._grip.working_on.discard(name)
            if not self._grip.working_on:
                self._idle.set()
        if failed is not None:
            delay = retry_delay(attempt, self._config.retry_seconds, failed.retry_after)
            await self._interrupt(Interruption(f"timer {name}", self._clock() + delay))
        return result

    def _may_pass(self, problem: Problem, attempt: int) -> bool:
        return (
            problem.retryable
            and attempt < self._config.step_attempts
            and self._config.content != "metadata"  # a run that waits keeps its content in the store
        )

    async def _failed(self, name: str, attempt: int, began: float, problem: Problem) -> None:
        error = problem.model_dump_json(exclude_none=True)
        step = Step(name, StepState.FAILED, attempt, began, self._clock(), error=error)
        await self._record(step)
        self._known[name] = step

    async def _record(self, step: Step) -> None:
        self.recorder.keep(step)
        await self.recorder.flush()

    async def _approved(self, name: str) -> None:
        """Return once a person has approved the step."""
        asked = self._known.get(APPROVAL + name)
        if asked is None:
            now = self._clock()
            asked = Step(APPROVAL + name, StepState.WAITING, 0, now, now)
            await self._record(asked)
            self._known[asked.name] = asked
        if asked.state is StepState.DONE:
            decision = json.loads(asked.result or "{}")
            if decision.get("approved"):
                return
            by, why = decision.get("by") or "its caller", decision.get("comment")
            raise StepRefusedError(
                403,
                f"step {name} was refused by {by}" + (f": {why}" if why else ""),
                title="Not approved",
                stage=name,
            )
        ends = asked.started + self._config.wait_seconds
        if self._clock() >= ends:
            raise ProblemError(
                504,
                f"nobody has approved step {name} within {self._config.wait_seconds:g} s (runs.waitSeconds)",
                title="Not approved",
                retryable=False,
                stage=name,
            )
        await self._interrupt(Interruption(f"approval {name}", ends))

    async def _hold_on(self) -> None:
        """Return while the run is this replica's, and the replica goes on."""
        while not self._grip.lost and not self._grip.stopping and time.monotonic() >= self._grip.until:
            await self._grip.renewed.wait()
        if self._grip.lost:
            raise LeaseLostError(self._grip.hold.run_id)
        if self._grip.stopping:
            await self._interrupt(Interruption(None))

    async def _interrupt(self, why: Interruption) -> None:
        """Stop the run once no other branch of it has a step under way; never returns."""
        before = self.interruption
        if before is None or before.waiting_for is None:
            self.interruption = why
        elif why.waiting_for is not None:
            wakes = [wake for wake in (before.wake_at, why.wake_at) if wake is not None]
            # What a person has to do is what the user is to see.
            first = min((before, why), key=lambda one: not (one.waiting_for or "").startswith("approval"))
            self.interruption = Interruption(first.waiting_for, min(wakes, default=None))
        while self._grip.working_on:
            await self._idle.wait()
        await self.recorder.flush()
        raise RunInterruptedError
