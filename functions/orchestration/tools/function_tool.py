"""A tool behind a URL: the arguments go there as JSON, and what comes back is the result.

Retried are connections that fail and answers that say that a retry can help, within the limits of all calls
(`functions.calls.retries`). Each attempt has the same `Idempotency-Key`, so a tool that honours it acts once.
"""

from __future__ import annotations

import json
import logging
import time
from typing import Any

import aiohttp

from functions.calls.failures import outcome_of
from functions.calls.retries import CallRetries
from functions.dialogue import FunctionSpec
from functions.orchestration.tools.config import FunctionToolConfig
from functions.orchestration.tools.http_calls import Caller, Destination, in_time
from functions.orchestration.tools.results import ToolResult, failed, read_answer
from functions.orchestration.tools.strictness import strictness
from functions.problems import RETRYABLE_STATUSES, ProblemError, seconds_of
from functions.stage import RequestContext
from transport.propagation import RETRIES_USED, parse_retries
from transport.retry_budget import RetryBudget

log = logging.getLogger(__name__)

_RETRIES_USED = RETRIES_USED.decode()
_NO_ARGUMENTS: dict[str, Any] = {
    "type": "object",
    "properties": {},
    "required": [],
    "additionalProperties": False,
}


class FunctionTool:
    """One function.

    Args:
        name: in the agent file, and for the model.
        config: of the function.
        caller: of all tools.
    """

    def __init__(self, name: str, config: FunctionToolConfig, caller: Caller) -> None:
        self.name = name
        self._config = config
        self._caller = caller
        self._destination = Destination(name, config, caller)
        self._budget = RetryBudget(reserve=caller.policy.retry_reserve)
        parameters = config.parameters or _NO_ARGUMENTS
        strict = strictness(config.strict, parameters)
        self._specs = (
            FunctionSpec(name=name, description=config.description, parameters=parameters, strict=strict),
        )

    async def specs(self, context: RequestContext) -> tuple[FunctionSpec, ...]:  # noqa: ARG002 - the port
        """The function."""
        return self._specs

    async def call(
        self,
        tool: str,  # noqa: ARG002 - the port; it has one
        arguments: dict[str, Any],
        context: RequestContext,
        *,
        idempotency_key: str,
    ) -> ToolResult:
        """See `ToolServer.call`."""
        body = json.dumps(arguments, ensure_ascii=False).encode()
        retries = CallRetries(self._caller.policy, context, self._budget)
        result: ToolResult | None = None
        try:
            async with in_time(self.name, self._config.timeout_seconds, context):
                async for attempt in retries.attempts():
                    with attempt:
                        result = await self._post(body, context, idempotency_key)
        except TimeoutError:
            late = f"{self.name} did not answer within {self._config.timeout_seconds:g} s"
            before = retries.last.result.text if isinstance(retries.last, _RefusedError) else None
            return failed(f"{late}; before that: {before}" if before else late)
        except _RefusedError as error:
            return error.result
        assert result is not None
        return result

    def prepare(self, context: RequestContext) -> None:
        """See `ToolServer.prepare`."""
        if self._config.wakes == "request":
            self._destination.wake(context)

    def wake(self, context: RequestContext) -> None:
        """See `ToolServer.wake`."""
        if self._config.wakes != "never":
            self._destination.wake(context)

    async def close(self) -> None:
        """See `ToolServer.close`."""
        await self._destination.close()

    async def _post(self, body: bytes, context: RequestContext, key: str) -> ToolResult:
        began = context.now()
        context.waiting_for = self.name
        try:
            with context.span("tool call", "client", **{"pilotlight.target": self.name}) as traceparent:
                result = await self._exchange(body, self._headers(context, traceparent, key), context)
        except ProblemError as error:
            self._caller.observe(self.name, outcome_of(error), context.now() - began)
            raise
        self._caller.observe(self.name, "ok", context.now() - began)
        return result

    def _headers(self, context: RequestContext, traceparent: str, key: str) -> dict[str, str]:
        try:
            headers = self._destination.headers(context, traceparent)
        except ProblemError as error:
            # What the operator has to mend is no matter of the model's.
            log.warning("a tool cannot be called", extra={"target": self.name, "reason": str(error)})
            raise _RefusedError(error, failed(f"{self.name} cannot be called now")) from error
        return {
            "Accept": "application/json, text/*;q=0.5",
            "Content-Type": "application/json",
            "Idempotency-Key": key,
            **headers,
        }

    async def _exchange(self, body: bytes, headers: dict[str, str], context: RequestContext) -> ToolResult:
        limit = self._config.answer_bytes
        try:
            async with self._caller.session.post(
                self._destination.url, data=body, headers=headers, allow_redirects=False
            ) as response:
                used = response.headers.get(_RETRIES_USED, "").encode(errors="replace")
                context.count_retries(parse_retries(used) or 0)
                answer = await _read_at_most(response, limit + 1)
                if len(answer) > limit:
                    response.close()  # the rest is not waited for
        except (aiohttp.ClientError, OSError) as error:
            problem = ProblemError(
                503,
                f"tool {self.name} did not answer: {error or type(error).__name__}",
                title="Tool unreachable",
                retryable=True,
                stage=self.name,
            )
            raise _RefusedError(problem, failed(f"{self.name} cannot be reached")) from error
        self._destination.answered()
        result = read_answer(
            self.name,
            status=response.status,
            content_type=response.content_type.lower(),
            body=answer[:limit],
            whole=len(answer) <= limit,
        )
        if response.status >= 300:
            raise _RefusedError(_problem(self.name, response, answer), result)
        return result


class _RefusedError(ProblemError):
    """An attempt that failed; has the result for the model, should it be the last."""

    def __init__(self, error: ProblemError, result: ToolResult) -> None:
        super().__init__(error.problem.status, str(error))
        self.problem = error.problem
        self.result = result


def _problem(tool: str, response: aiohttp.ClientResponse, body: bytes) -> ProblemError:
    after = seconds_of(response.headers.get("Retry-After"), now=time.time())
    status = response.status if response.status >= 400 else 502
    return ProblemError(
        status,
        f"tool {tool} answered with status {response.status}",
        retryable=_says_retryable(response.content_type, body, response.status),
        retry_after=after,
        stage=tool,
    )


def _says_retryable(content_type: str, body: bytes, status: int) -> bool:
    """What the tool's own problem says, else by the status."""
    if content_type == "application/problem+json":
        try:
            said = json.loads(body).get("retryable")
        except (ValueError, AttributeError, RecursionError):
            said = None
        if isinstance(said, bool):
            return said
    return status in RETRYABLE_STATUSES


async def _read_at_most(response: aiohttp.ClientResponse, size: int) -> bytes:
    pieces: list[bytes] = []
    left = size
    while left and (piece := await response.content.read(left)):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)
