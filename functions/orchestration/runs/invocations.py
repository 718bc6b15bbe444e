"""`POST /invoke` with `Prefer: respond-async`: the request becomes a run; 202 says where it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from functions.contract import Problem
from functions.http.answer_format import parse_request
from functions.http.problem_response import send_problem
from functions.http.request_body import ClientDisconnectedError
from functions.http.request_state import RequestState, state_of
from functions.http.work_scope import WorkScope
from functions.idempotency import parse_key
from functions.orchestration.runs.documents import run_document
from functions.orchestration.runs.preferences import Preferences, parse_preferences
from functions.orchestration.runs.service import RunService
from functions.orchestration.runs.values import Run, RunState
from functions.problems import ProblemError, problem_of
from functions.stage import RequestContext

_ANSWER_S = 0.5
"""The answer leaves so long before the deadline."""


class DurableInvocation:
    """An ASGI application for `/invoke`.

    Args:
        service: gives the runs of this replica, once it has started.
        plain: answers a request that does not ask for a run.
        stage: the stage's name, for problems.
    """

    def __init__(
        self,
        service: Callable[[], Awaitable[RunService]],
        plain: Callable[[RequestContext], ASGIApp],
        *,
        stage: str,
    ) -> None:
        self._service = service
        self._plain = plain
        self._stage = stage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        state = state_of(scope)
        fields = [value.decode("latin-1") for name, value in scope["headers"] if name == b"prefer"]
        preferences = parse_preferences(fields)
        if not preferences.respond_async or scope["method"] != "POST":
            await self._plain(state.context)(scope, receive, send)
            return
        try:
            async with WorkScope(receive, state.context, state.active):
                await self._accept(state, preferences, send)
        except ClientDisconnectedError:
            return
        except Exception as error:  # noqa: BLE001 - any bug must still be answered
            await send_problem(send, problem_of(error, stage=self._stage))

    async def _accept(self, state: RequestState, preferences: Preferences, send: Send) -> None:
        context = state.context
        request = parse_request(state.body, request_id=context.request_id)
        if request.stream:
            raise ProblemError(
                422,
                "stream: a run has no stream of tokens; must be left out (see GET /runs/ID/events)",
            )
        if request.segment is not None:
            raise ProblemError(422, "segment: an orchestrate stage takes whole requests; must be left out")
        content = request.model_dump_json(exclude={"id"})
        runs = await self._service()
        run, new = await runs.submit(
            request,
            context,
            key=parse_key(context.idempotency_key),
            fingerprint=hashlib.sha256(content.encode()).hexdigest(),
        )
        if not new:
            context.record("replayed", 0.0)
        if preferences.wait_s:
            left = context.remaining()
            wait = preferences.wait_s if left is None else min(preferences.wait_s, left - _ANSWER_S)
            run = await runs.wait_for_end(run.id, max(0.0, wait))
            reply = runs.runner.execution.reply_of(run)
            if run.state is RunState.SUCCEEDED and reply is not None:
                await _send(send, 200, run, reply.encode())
                return
            if run.state is RunState.FAILED:
                problem = Problem.model_validate_json(run.error or "{}")
                place = (b"x-pilotlight-run", run.id.encode())
                await send_problem(send, problem, extra=(place,))
                return
        await _send(send, 202, run, json.dumps(run_document(run)).encode())


async def _send(send: Send, status: int, run: Run, body: bytes) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"preference-applied", b"respond-async"),
        (b"x-pilotlight-run", run.id.encode()),
    ]
    if status == 202:
        # Relative to /invoke, so that it holds behind a gateway with a path of its own (RFC 9110, 10.2.2).
        headers.append((b"location", f"runs/{run.id}".encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
