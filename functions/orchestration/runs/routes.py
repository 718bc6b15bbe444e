"""`/runs` and below: a caller's durable runs over HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from functions.http.app import context_of
from functions.http.bounded_route import BoundedRoute
from functions.orchestration.runs.documents import encode_end, encode_run_event, run_document
from functions.orchestration.runs.service import RunService, owner_of
from functions.orchestration.runs.values import Owner, Run, RunState
from functions.problems import ProblemError

MAX_LISTED: Final = 200
COMMENT_S: Final = 15.0
"""Between the comments in a stream of events in which nothing happens."""
_BATCH: Final = 500


class Approval(BaseModel):
    """A person's decision."""

    model_config = ConfigDict(extra="forbid", strict=True)

    approved: bool = True
    step: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """The step that is meant; without it, the one that the run waits with."""
    comment: Annotated[str, Field(max_length=2000)] | None = None


def runs_router(service: Callable[[], Awaitable[RunService]]) -> APIRouter:
    """The routes.

    Args:
        service: gives the runs of this replica, once it has started.
    """
    router = APIRouter(prefix="/runs", tags=["runs"], route_class=BoundedRoute)

    @router.get("")
    async def list_runs(
        request: Request,
        state: Annotated[list[RunState] | None, Query()] = None,
        limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = 50,
        before: Annotated[str | None, Query(max_length=64)] = None,
    ) -> dict[str, Any]:
        """The caller's runs, the newest first; `before` is the `next` of the page before."""
        runs = await service()
        owner = _owner(request)
        found = await runs.held(
            lambda: runs.store.list_runs(owner, states=state or (), before=before, limit=limit + 1)
        )
        page = found[:limit]
        return {
            "runs": [run_document(run) for run in page],
            "next": page[-1].id if len(found) > limit else None,
        }

    @router.get("/{run_id}")
    async def get_run(request: Request, run_id: str, *, content: bool = False) -> dict[str, Any]:
        """State, steps, times, usage, and the reply or the error; `content` adds request and results."""
        runs = await service()
        return await _document(runs, await runs.get(run_id, _owner(request)), content=content)

    @router.get("/{run_id}/events", response_class=StreamingResponse)
    async def events(request: Request, run_id: str) -> Response:
        """The run's events as they happen, or from behind `Last-Event-ID`; the stream ends with the run."""
        runs = await service()
        run = await runs.get(run_id, _owner(request))
        after = _last_event(request.headers.get("last-event-id"))
        if run.state.ended and after >= run.events:
            return Response(status_code=204)  # an EventSource asks no more
        left = context_of(request).remaining()
        body = _events(runs, run_id, after, seconds=600.0 if left is None else max(0.0, left - 1.0))
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(body, media_type="text/event-stream", headers=headers)

    @router.post("/{run_id}/cancel")
    async def cancel(request: Request, run_id: str) -> dict[str, Any]:
        """End the run. What a replica has under way for it ends at once, or within a third of the lease."""
        runs = await service()
        return await _document(runs, await runs.cancel(run_id, _owner(request)))

    @router.post("/{run_id}/resume", status_code=202)
    async def resume(request: Request, run_id: str) -> dict[str, Any]:
        """Let a run that failed or was cancelled go on from its last finished step."""
        runs = await service()
        return await _document(runs, await runs.resume(run_id, _owner(request)))

    @router.post("/{run_id}/approve", status_code=202)
    async def approve(request: Request, run_id: str, body: Approval) -> dict[str, Any]:
        """Approve or refuse the step that the run waits with."""
        runs = await service()
        run = await runs.decide(
            run_id, _owner(request), step=body.step, approved=body.approved, comment=body.comment
        )
        return await _document(runs, run)

    @router.post("/{run_id}/drive", include_in_schema=False)
    async def drive(request: Request, run_id: str) -> JSONResponse:
        """Take the run up if it is due; answers when nobody works on it. What wakes runs asks for this."""
        runs = await service()
        context = context_of(request)
        if context.caller.kind not in {"stage", "anyone"}:
            raise ProblemError(403, "only the agent's own processes may drive runs")
        left = context.remaining()
        run = await runs.drive(run_id, seconds=60.0 if left is None else max(0.0, min(60.0, left - 1.0)))
        return JSONResponse({"id": run.id, "state": run.state.value})

    return router


async def _document(runs: RunService, run: Run, *, content: bool = False) -> dict[str, Any]:
    steps = await runs.held(lambda: runs.store.steps_of(run.id))
    return run_document(run, steps, reply=runs.runner.execution.reply_of(run), content=content)


async def _events(runs: RunService, run_id: str, after: int, *, seconds: float) -> AsyncIterator[bytes]:
    """Events until the run ends or waits; for a run that waits, nothing is to hold a replica."""
    ends = time.monotonic() + seconds
    # An EventSource comes back by itself, and each time that wakes a replica.
    yield b"retry: 30000\n\n"
    spoken = time.monotonic()
    while True:
        run = await runs.get(run_id, None)
        while batch := await runs.held(lambda: runs.store.events_of(run_id, after=after, limit=_BATCH)):  # noqa: B023
            for event in batch:
                yield encode_run_event(event)
            after, spoken = batch[-1].seq, time.monotonic()
        if run.state.ended:
            if after >= run.events:
                yield encode_end(run, runs.runner.execution.reply_of(run))
                return
            continue
        left = ends - time.monotonic()
        if run.state is RunState.WAITING or left <= 0 or runs.runner.draining:
            return
        if time.monotonic() - spoken > COMMENT_S:
            yield b": still running\n\n"
            spoken = time.monotonic()
        await runs.runner.change_of(run_id, left)
        await asyncio.sleep(0)


def _last_event(value: str | None) -> int:
    if value is None or not value.strip():
        return 0
    if not (value.isascii() and value.strip().isdecimal() and len(value) < 12):
        raise ProblemError(400, f"Last-Event-ID = {value[:40]!r}, must be the id of one of the run's events")
    return int(value)


def _owner(request: Request) -> Owner:
    return owner_of(context_of(request).caller)
