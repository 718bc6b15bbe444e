"""Whether a failed call to another stage is made again, and when.

Three limits hold together: posts to one stage for one request (`CallPolicy.attempts`), retries for one
request by all stages and proxies behind (`X-Pilotlight-Retries`), and retries to one stage as a share of its
requests (`transport.retry_budget`). Connections that were refused count in none of them: nothing was sent,
and a stage that starts is waited for.
"""

import random
from collections.abc import AsyncIterator
from typing import Annotated

import stamina
from pydantic import Field

from functions.calls.failures import CircuitOpenError, StageUnreachableError
from functions.problems import ProblemError
from functions.stage import RequestContext
from functions.stage_config import StageConfig
from transport.retry_budget import RetryBudget


class CallPolicy(StageConfig):
    """How patient the caller is with one stage."""

    attempts: Annotated[int, Field(ge=1, le=100)] = 4
    """Posts to one stage for one request at most, the first one included."""
    retry_reserve: Annotated[int, Field(ge=0, le=1000)] = 10
    """Retries to one stage beyond a fifth of its requests; one comes back in ten seconds."""
    wait_initial: Annotated[float, Field(gt=0)] = 0.1
    """Seconds before the second post; doubled each time, with jitter of the same size."""
    wait_max: Annotated[float, Field(gt=0)] = 5.0
    """Seconds between posts at most, unless the stage asks for more."""
    breaker_failures: Annotated[int, Field(ge=1)] = 5
    """Consecutive failures that open the circuit."""
    breaker_seconds: Annotated[float, Field(gt=0)] = 5.0
    """How long it stays open."""


class CallRetries:
    """The retries of one call.

    Args:
        policy: of the caller.
        context: of the request; has its deadline and its own limit of retries.
        budget: of the stage that is called.
    """

    def __init__(self, policy: CallPolicy, context: RequestContext, budget: RetryBudget) -> None:
        self._policy = policy
        self._context = context
        self._budget = budget
        self._posts = 0
        self._circuit_waits = 0
        self.last: ProblemError | None = None
        """The problem of the last attempt that failed."""
        budget.add_request(context.now())

    def attempts(self) -> AsyncIterator[stamina.Attempt]:
        """One attempt after the other, with the waits between them; ends with the request's deadline."""
        policy = self._policy
        return stamina.retry_context(
            on=self._wait,
            attempts=None,
            timeout=self._context.remaining(),
            wait_initial=policy.wait_initial,
            wait_jitter=policy.wait_initial,
            wait_max=policy.wait_max,
        ).__aiter__()

    def _wait(self, error: Exception) -> bool | float:
        """Whether to call again after this error: no, yes after the usual wait, or after so many seconds."""
        if not isinstance(error, ProblemError):
            return False
        self.last = error
        if not error.problem.retryable or not self._may_retry(error):
            return False
        after = error.problem.retry_after
        if after is None:
            return True
        left = self._context.remaining()
        if left is not None and after >= left:
            return False
        return after + random.uniform(0, self._policy.wait_initial)  # noqa: S311 - spreads load, guards nothing

    def _may_retry(self, error: ProblemError) -> bool:
        if isinstance(error, CircuitOpenError):
            # A new request is refused at once. One that is being retried waits until the circuit closes, but
            # not for ever: each wait counts as a post would.
            self._circuit_waits += 1
            return self._posts > 0 and self._posts + self._circuit_waits <= self._policy.attempts
        if isinstance(error, StageUnreachableError) and error.before_connection:
            return True
        self._posts += 1
        return (
            self._posts < self._policy.attempts
            and self._budget.take_retry(self._context.now())
            and self._context.take_retry()
        )
