"""The work of a replica on one run: from its request and recorded steps to where it ends or waits."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from functions.auth.caller import Caller
from functions.contract import StageReply, StageRequest
from functions.orchestration.runs.config import RunsConfig
from functions.orchestration.runs.durable_steps import Codec, DurableSteps, Grip, RunInterruptedError
from functions.orchestration.runs.errors import DatabaseError, LeaseLostError
from functions.orchestration.runs.step_recorder import AWAY_S, StepRecorder
from functions.orchestration.runs.values import Hold, Run, RunState, Step
from functions.problems import ProblemError, problem_of
from functions.stage import RequestContext

if TYPE_CHECKING:
    from functions.orchestration.runs.store import RunStore

log = logging.getLogger(__name__)

Body = Callable[[StageRequest, RequestContext, DurableSteps], Awaitable[StageReply]]
MAX_LOST: Final = 10
"""How often in a row a run may be taken up from a lost replica without a step finishing in between."""
_PAUSE_S: Final = 0.25
_REMEMBERED: Final = 64
"""Replies that are not stored, for clients that wait for them."""


class RunExecution:
    """Works on runs that this replica holds.

    Args:
        store: where they are.
        config: bounds, and what of the content is kept.
        body: answers a request by way of its steps.
        codec: of the steps' results.
        stage: the stage's name, for problems.
    """

    def __init__(self, store: RunStore, config: RunsConfig, body: Body, codec: Codec, *, stage: str) -> None:
        self._store = store
        self._config = config
        self._body = body
        self._codec = codec
        self._stage = stage
        self._replies: OrderedDict[str, str] = OrderedDict()

    def reply_of(self, run: Run) -> str | None:
        """The answer as JSON; one that is not stored only from the replica that made it, and not for long."""
        return run.reply if run.reply is not None else self._replies.get(run.id)

    async def work(
        self,
        run: Run,
        grip: Grip,
        steps: Sequence[Step],
        request: StageRequest | None,
        on_recorded: Callable[[], None],
    ) -> Run | None:
        """Go on with a run until it ends, waits, is lost, or the replica stops.

        Args:
            run: as it was taken up.
            grip: of the run.
            steps: what is recorded.
            request: of a new run; else it is read from the store.
            on_recorded: called after each step.

        Returns:
            The run with its reply, if it has succeeded; what else became of it is in the store.

        Raises:
            DatabaseError: what has come of the run cannot be stored; it is taken up again.
            asyncio.CancelledError: the replica stops; the run was given back.
        """
        recorded = DurableSteps(
            self._store, grip, steps, config=self._config, codec=self._codec, on_recorded=on_recorded
        )
        try:
            if run.cancel:
                await self._end(grip.hold, recorded.recorder, RunState.CANCELLED)
                return None
            reply = await self._answer(run, recorded, request)
            text = self._kept(run.id, reply.model_dump_json(exclude_none=True))
            await self._end(grip.hold, recorded.recorder, RunState.SUCCEEDED, reply=text)
            return replace(run, state=RunState.SUCCEEDED, reply=text)
        except LeaseLostError:
            log.info("a run went to another replica", extra={"run": run.id})
        except asyncio.CancelledError:
            if not grip.lost:
                await self._cut_off(grip, recorded.recorder)
        except (RunInterruptedError, BaseExceptionGroup):  # a group: of branches that run side by side
            if recorded.interruption is None:
                raise
            await self._interrupted(grip.hold, recorded)
        except DatabaseError:
            raise
        except Exception as error:  # noqa: BLE001 - any bug of a stage ends the run, not the replica
            await self._fail(run, grip.hold, recorded.recorder, error)
        return None

    async def _cut_off(self, grip: Grip, recorder: StepRecorder) -> None:
        """The work was cancelled: by the run's caller, or because the replica stops."""
        if grip.cancelled:
            await self._end(grip.hold, recorder, RunState.CANCELLED)
        else:
            await self._release(grip.hold, recorder)

    def _kept(self, run_id: str, reply: str) -> str | None:
        """What of a reply goes into the store."""
        if self._config.content == "full":
            return reply
        self._replies[run_id] = reply
        while len(self._replies) > _REMEMBERED:
            self._replies.popitem(last=False)
        return None

    async def _answer(self, run: Run, steps: DurableSteps, request: StageRequest | None) -> StageReply:
        if run.lost > MAX_LOST:
            raise ProblemError(
                500,
                f"the run was taken up {run.lost} times from replicas that were lost, and no step has "
                "finished in between: it may be what ends them",
                title="Run abandoned",
            )
        if request is None:
            if run.request is None:
                raise ProblemError(
                    500,
                    "the replica that worked on the run was lost, and the run's content is not stored "
                    "(runs.content: metadata)",
                    title="Content not stored",
                )
            request = StageRequest.model_validate_json(run.request)
        async with asyncio.timeout(self._config.run_seconds):
            return await self._body(request, self._context(run), steps)

    def _context(self, run: Run) -> RequestContext:
        origin: dict[str, Any] = json.loads(run.origin)
        now = time.monotonic()
        context = RequestContext(
            request_id=origin["request_id"],
            traceparent=origin["traceparent"],
            arrived=now,
            deadline=now + self._config.run_seconds,
            deadline_given=True,
            warmth="hot",
        )
        context.caller = Caller(run.owner.name, _KINDS[run.owner.kind], run.owner.team)
        return context

    async def _fail(self, run: Run, hold: Hold, recorder: StepRecorder, error: Exception) -> None:
        problem = problem_of(error, stage=self._stage)
        if problem.status == 500 and not isinstance(error, ProblemError):
            log.error("unexpected error in a run", exc_info=error, extra={"run": run.id})
        with contextlib.suppress(LeaseLostError):
            await self._end(hold, recorder, RunState.FAILED, error=problem.model_dump_json(exclude_none=True))

    async def _interrupted(self, hold: Hold, steps: DurableSteps) -> None:
        why = steps.interruption
        with contextlib.suppress(LeaseLostError):
            if why is None or why.waiting_for is None:
                await self._release(hold, steps.recorder)
            else:
                waiting_for, wake_at = why.waiting_for, why.wake_at
                await self._persist(lambda: self._store.wait(hold, waiting_for=waiting_for, wake_at=wake_at))

    async def _release(self, hold: Hold, recorder: StepRecorder) -> None:
        try:
            async with asyncio.timeout(3.0):
                await self._store.release(hold, ended=await recorder.settle())
        except (DatabaseError, LeaseLostError, TimeoutError) as error:
            # Its lease ends by itself.
            log.warning("a run cannot be given back", extra={"run": hold.run_id, "reason": str(error)})

    async def _end(
        self,
        hold: Hold,
        recorder: StepRecorder,
        state: RunState,
        *,
        reply: str | None = None,
        error: str | None = None,
    ) -> None:
        ended = await recorder.settle()
        await self._persist(lambda: self._store.end(hold, state, reply=reply, error=error, ended=ended))

    async def _persist(self, work: Callable[[], Awaitable[None]]) -> None:
        """Write what the run has come to; while the database is away, wait for it."""
        began, pause = time.monotonic(), _PAUSE_S
        while True:
            try:
                await work()
            except DatabaseError as error:
                if not error.passing or time.monotonic() - began > AWAY_S:
                    raise
                await asyncio.sleep(pause)
                pause = min(5.0, 2 * pause)
            else:
                return


_KINDS: Final[dict[str, Any]] = {kind: kind for kind in ("key", "jwt", "stage", "anyone")}
