"""What callers do with durable runs: submit, look, wait, cancel, resume, approve; each sees its own."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from functions.auth.caller import Caller
from functions.contract import StageRequest
from functions.orchestration.runs.errors import DatabaseError, TooManyRunsError
from functions.orchestration.runs.run_ids import new_run_id
from functions.orchestration.runs.runner import RunRunner
from functions.orchestration.runs.values import Owner, Run, RunState, is_due
from functions.problems import ProblemError
from functions.stage import RequestContext

T = TypeVar("T")
_PAUSE_S: Final = 0.25


class RunService:
    """Durable runs as their callers see them.

    Args:
        runner: of this replica.
    """

    def __init__(self, runner: RunRunner) -> None:
        self.runner = runner
        self.config = runner.config
        self.store = runner.store

    async def submit(
        self, request: StageRequest, context: RequestContext, *, key: str | None, fingerprint: str
    ) -> tuple[Run, bool]:
        """Accept a request as a run; it is stored when this returns, and survives a loss of power.

        Returns:
            The run, or the one that this caller made with the same key before; and whether it is new.

        Raises:
            ProblemError: 422 for a key of another request, 429 for too many runs, 503 without the database.
        """
        if self.runner.draining:
            raise ProblemError(503, "the replica stops; another one takes the run", retry_after=1.0)
        now = time.time()
        run_id = new_run_id()
        begin = self.runner.reserve(run_id)
        body = request.model_dump_json(exclude_none=True)
        origin = {"request_id": context.request_id, "traceparent": context.traceparent}
        run = Run(
            id=run_id,
            owner=owner_of(context.caller),
            state=RunState.RUNNING if begin else RunState.QUEUED,
            created=now,
            updated=now,
            attempt=1 if begin else 0,
            started=now if begin else None,
            lease_owner=self.runner.replica if begin else None,
            idempotency_key=key,
            fingerprint=fingerprint,
            request=None if self.config.content == "metadata" else body,
            origin=json.dumps(origin),
        )
        stored, new = run, False
        try:
            stored, new = await self.held(lambda: self._create(run))
        finally:
            if begin and not new:
                self.runner.forget(run_id)
        if not new and stored.fingerprint != fingerprint:
            raise ProblemError(
                422, "Idempotency-Key was used for another request; must be new for each request"
            )
        if new and begin:
            self.runner.begin(run, [], request)
        # Its first step is under way meanwhile. That the run is known to survive a loss of power matters once
        # its caller hears of it.
        await self.held(self.store.database.sync)
        return stored, new

    async def held(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do something with the database; while it is away the request is held for some time.

        Raises:
            ProblemError: 503, it stays away.
        """
        ends, pause = time.monotonic() + self.config.patience_seconds, _PAUSE_S
        while True:
            try:
                return await work()
            except DatabaseError as error:
                if not error.passing or time.monotonic() + pause > ends:
                    raise ProblemError(
                        503,
                        f"runs cannot be stored now: {error}",
                        title="Run store unavailable",
                        retryable=error.passing,
                        retry_after=5.0 if error.passing else None,
                    ) from error
            await asyncio.sleep(pause)
            pause = min(2.0, 2 * pause)

    async def get(self, run_id: str, owner: Owner | None) -> Run:
        """A caller's run.

        Args:
            run_id: of the run.
            owner: the caller; None: one of the agent's own processes.

        Raises:
            ProblemError: 404, there is none, or it is another's; 503 without the database.
        """
        run = await self.held(lambda: self.store.get(run_id))
        return self._owned(run, run_id, owner)

    async def cancel(self, run_id: str, owner: Owner) -> Run:
        """Cancel a run; what it has under way here ends at once. Raises as `get`."""
        await self.get(run_id, owner)
        run = self._owned(await self.held(lambda: self.store.cancel(run_id)), run_id, owner)
        if run.cancel and not run.state.ended and self.runner.cancel(run_id):
            await self.runner.ended(run_id, 5.0)
            return await self.get(run_id, owner)
        return run

    async def resume(self, run_id: str, owner: Owner) -> Run:
        """Let a run that failed or was cancelled go on.

        Raises:
            ProblemError: as `get`; 409 for a run that has not failed, or whose content is gone.
        """
        before = await self.get(run_id, owner)
        if before.state not in {RunState.FAILED, RunState.CANCELLED}:
            raise ProblemError(
                409, f"run {run_id} is {before.state}; only one that failed or was cancelled can be resumed"
            )
        if before.request is None:
            raise ProblemError(
                409, f"run {run_id} cannot be resumed: its content is not stored (runs.content)"
            )
        run = self._owned(await self.held(lambda: self.store.resume(run_id)), run_id, owner)
        self.runner.nudge()
        return run

    async def decide(
        self, run_id: str, owner: Owner, *, step: str | None, approved: bool, comment: str | None
    ) -> Run:
        """Approve or refuse the step that a run waits with.

        Raises:
            ProblemError: as `get`; 409 for a run that does not wait for that.
        """
        before = await self.get(run_id, owner)
        kind, _, waits = (before.waiting_for or "").partition(" ")
        if before.state is not RunState.WAITING or kind != "approval" or (step or waits) != waits:
            what = f"waits for {before.waiting_for}" if before.waiting_for else f"is {before.state}"
            asked = f"an approval of step {step}" if step else "an approval"
            raise ProblemError(409, f"run {run_id} {what}, not for {asked}")
        decision = {"approved": approved, "by": owner.name, "comment": comment}
        run = await self.held(lambda: self.store.decide(run_id, waits, decision))
        self.runner.nudge()
        return self._owned(run, run_id, owner)

    async def drive(self, run_id: str, *, seconds: float) -> Run:
        """Take a run up if it is due, and return once nobody has to work on it, or after some seconds.

        While this waits, the platform counts a request, so it keeps a replica for the run.
        """
        ends = time.monotonic() + seconds
        while True:
            if is_due(await self.get(run_id, None), time.time()):
                await self.held(lambda: self.runner.claim([run_id]))
            await self.runner.ended(run_id, max(0.0, ends - time.monotonic()))
            run = await self.get(run_id, None)
            left = ends - time.monotonic()
            if left <= 0 or self.runner.draining or run.state not in _ACTIVE:
                return run
            await asyncio.sleep(min(1.0, self.config.lease_seconds / 4, left))

    async def wait_for_end(self, run_id: str, seconds: float) -> Run:
        """The run when nobody works on it any more, or as it is after some seconds."""
        ends = time.monotonic() + seconds
        while True:
            here = self.runner.works_on(run_id)
            if (done := await self.runner.outcome(run_id, max(0.0, ends - time.monotonic()))) is not None:
                return done
            run = await self.get(run_id, None)
            left = ends - time.monotonic()
            if run.state not in _ACTIVE or left <= 0 or self.runner.draining:
                return run
            if not here:
                await asyncio.sleep(min(0.5, left))

    async def _create(self, run: Run) -> tuple[Run, bool]:
        try:
            return await self.store.create(
                run, max_unfinished=self.config.max_unfinished, lease_s=self.config.lease_seconds
            )
        except TooManyRunsError:
            raise ProblemError(
                429,
                f"{run.owner.name or 'this caller'} has {self.config.max_unfinished} unfinished runs, "
                "its limit (runs.maxUnfinished)",
                title="Too many runs",
                retry_after=10.0,
            ) from None

    def _owned(self, run: Run | None, run_id: str, owner: Owner | None) -> Run:
        """The run, if it is the caller's; another's is not there for it."""
        if run is None or (
            owner is not None and (run.owner.kind, run.owner.name) != (owner.kind, owner.name)
        ):
            raise ProblemError(404, f"there is no run {run_id[:80]!r}", title="No such run")
        return run


_ACTIVE: Final = frozenset({RunState.QUEUED, RunState.RUNNING})


def owner_of(caller: Caller) -> Owner:
    """Whose a caller's runs are."""
    return Owner(caller.kind, caller.name, caller.team)
