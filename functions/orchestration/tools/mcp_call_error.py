"""Why a call of an MCP server failed: whether it may be made again, and what the model is told (pure)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from functions.problems import RETRYABLE_STATUSES, ProblemError

if TYPE_CHECKING:
    from functions.orchestration.tools.mcp_transport import Exchange

_CONNECTION_CLOSED: Final = -32000
_PARSE_ERROR: Final = -32700


class McpCallError(ProblemError):
    """A call that failed.

    Attributes:
        said: for the model.
    """

    def __init__(self, server: str, status: int, said: str, *, retryable: bool) -> None:
        super().__init__(status, f"tool server {server}: {said}", retryable=retryable, stage=server)
        self.said = said


def call_error(
    server: str, error: Exception, exchange: Exchange, *, had_session: bool, repeats: bool
) -> McpCallError:
    """The error of one attempt.

    Args:
        server: its name.
        error: as the library raised it.
        exchange: what was sent, and what came.
        had_session: the connection was there before; a 404 means then that the server has lost it.
        repeats: the call does no harm if it is made again.
    """
    error = _first(error)
    code = getattr(error, "code", None)
    status = exchange.status
    cut = code == _CONNECTION_CLOSED and (status is None or status < 400)
    passing = exchange.failure is not None or cut or status in RETRYABLE_STATUSES
    lost = status == 404 and had_session
    retryable = lost or (passing and (repeats or not exchange.begun))
    if status is None or status < 400:
        status = 503 if passing else 502
    return McpCallError(server, status, _said(error, exchange, cut=cut, code=code), retryable=retryable)


def _said(error: Exception, exchange: Exchange, *, cut: bool, code: int | None) -> str:
    status = exchange.status
    if exchange.failure is not None:
        return "the tool server cannot be reached"
    if status in {401, 403}:
        return f"the tool server refuses the agent's credentials ({status})"
    if cut:
        return "the connection was cut off before the answer"
    if code == _PARSE_ERROR or isinstance(error, ValidationError):
        return "the tool server answered with what is no message of the protocol"
    if status is not None and status >= 300:
        return f"the tool server failed ({status}): {error}"
    return str(error) or type(error).__name__


def _first(error: BaseException) -> Exception:
    """Of a group, what is in it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error if isinstance(error, Exception) else RuntimeError(type(error).__name__)
