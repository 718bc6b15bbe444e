"""Why a call to another stage failed, and what follows from it for retries and for the circuit breaker."""

from typing import Literal, TypeAlias

import aiohttp

from functions.problems import ProblemError

Outcome: TypeAlias = Literal["ok", "refused", "failed", "unreachable", "circuit_open"]
"""How one attempt ended: `refused` is a problem below 500, `failed` one from there on."""

_GATEWAY_TIMEOUT = 504
_TOO_MANY_REQUESTS = 429


class CircuitOpenError(ProblemError):
    """The stage was not called, because its circuit is open.

    Args:
        stage: its name.
        failures: consecutive failures that opened the circuit.
        left: seconds until the stage is tried again.
    """

    def __init__(self, stage: str, failures: int, left: float) -> None:
        super().__init__(
            503,
            f"stage {stage} failed {failures} times in a row; it is tried again in {left:.1f} s",
            title="Circuit open",
            retry_after=left,
            stage=stage,
        )


class StageUnreachableError(ProblemError):
    """The stage sent no response, or not all of it.

    Args:
        stage: its name.
        url: its address.
        error: of the HTTP client.
    """

    def __init__(self, stage: str, url: str, error: Exception) -> None:
        super().__init__(
            503,
            f"stage {stage} at {url} did not answer: {error or type(error).__name__}",
            title="Stage unreachable",
            stage=stage,
        )
        self.before_connection = isinstance(error, aiohttp.ClientConnectorError)
        """There was not even a connection, so the stage has begun nothing."""


def outcome_of(error: ProblemError) -> Outcome:
    """How an attempt that raised this ended."""
    if isinstance(error, CircuitOpenError):
        return "circuit_open"
    if isinstance(error, StageUnreachableError):
        return "unreachable"
    return "refused" if error.problem.status < 500 else "failed"


def is_no_failure_of_the_stage(error: BaseException) -> bool:
    """Whether the circuit breaker ignores this: a bad request, or a deadline that has passed.

    An overloaded stage (429) does open its circuit, because more requests make it worse.
    """
    assert isinstance(error, ProblemError)
    status = error.problem.status
    return (status < 500 and status != _TOO_MANY_REQUESTS) or status == _GATEWAY_TIMEOUT
