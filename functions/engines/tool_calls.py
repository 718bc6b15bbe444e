"""Calls of tools put together from the pieces in which an engine sends them (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pydantic import ValidationError

from functions.contract import ToolStart
from functions.dialogue import MAX_TOOLS, FunctionCall, ToolCall
from functions.engine import EngineError, ToolCallPiece


@dataclass(slots=True)
class _Call:
    id: str
    name: str
    arguments: list[str]


class ToolCalls:
    """The calls of one answer.

    Args:
        request_id: of the request; makes ids for calls that come without.
    """

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id
        self._calls: dict[int, _Call] = {}
        self._begun: set[int] = set()

    def add(self, pieces: Iterable[ToolCallPiece]) -> Iterator[ToolStart]:
        """Take the next pieces; gives each call whose name has become known.

        Raises:
            EngineError: more calls than one answer may have.
        """
        for piece in pieces:
            call = self._calls.get(piece.index)
            if call is None:
                if len(self._calls) == MAX_TOOLS:
                    raise _outside(f"more than {MAX_TOOLS} calls of tools")
                made = f"call_{self._request_id[:200]}_{piece.index}"
                call = self._calls[piece.index] = _Call(piece.id or made, "", [])
            # Some servers send id and name again with every piece.
            call.name = call.name or piece.name or ""
            call.arguments.append(piece.arguments)
            if call.name and piece.index not in self._begun:
                self._begun.add(piece.index)
                yield ToolStart(len(self._begun) - 1, call.id, call.name)

    def whole(self) -> tuple[ToolCall, ...]:
        """All calls, in order.

        Raises:
            EngineError: a call that the contract does not allow, such as one without a name.
        """
        try:
            return tuple(
                ToolCall(id=call.id, function=FunctionCall(name=call.name, arguments="".join(call.arguments)))
                for _, call in sorted(self._calls.items())
            )
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            raise _outside(f"a call of a tool whose {field} does not fit: {first['msg']}") from None


def _outside(what: str) -> EngineError:
    return EngineError(f"the engine sent {what}", retryable=False, status=502)
