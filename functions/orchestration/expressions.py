"""Where expressions of a graph are worked out: short work here, the rest in a process that can be ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Mapping
from typing import Any, Final

from functions.graph.conditions import Condition, ExpressionError

INLINE_CHARS: Final = 5_000
"""Of all that an expression reads: it is worked out within some milliseconds."""
LIMIT_S: Final = 5.0
"""For one expression; the process's start comes on top."""
_START_S: Final = 60.0


class Expressions:
    """Works out expressions, one after the other where they need the process.

    Args:
        limit_s: how long one may take there.
    """

    def __init__(self, limit_s: float = LIMIT_S) -> None:
        self._limit_s = limit_s
        self._turn = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None

    async def value(self, condition: Condition, variables: Mapping[str, Any], *, characters: int) -> Any:
        """The value.

        Args:
            condition: the expression.
            variables: what it reads.
            characters: how large these are.

        Raises:
            ExpressionError: it has none, or takes too long.
        """
        if characters <= INLINE_CHARS and not condition.goes_over_lists:
            return condition.value(variables)
        async with self._turn:
            told = await self._ask(condition.source, variables)
        if "error" in told:
            raise ExpressionError(told["error"])
        return told["value"]

    async def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _ask(self, source: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        message = json.dumps([source, variables]).encode()
        answered = False
        try:
            if self._process is None:
                async with asyncio.timeout(_START_S):
                    self._process = await self._start()
                    # A first word, for what it imports is not the expression's time.
                    await self._exchange(b'["true", {}]')
            async with asyncio.timeout(self._limit_s):
                told: dict[str, Any] = json.loads(await self._exchange(message))
            answered = True
        except TimeoutError:
            raise ExpressionError(f"{source!r} takes longer than {self._limit_s:g} s") from None
        except (OSError, asyncio.IncompleteReadError):
            raise ExpressionError(f"{source!r}: the process that works it out has ended") from None
        else:
            return told
        finally:
            if (
                not answered
            ):  # also when the request is cancelled: its answer would be taken for the next one's
                await asyncio.shield(self.close())

    @staticmethod
    async def _start() -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "functions.graph.evaluate",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip

    async def _exchange(self, message: bytes) -> bytes:
        assert self._process is not None
        given, out = self._process.stdin, self._process.stdout
        assert given is not None
        assert out is not None
        given.write(len(message).to_bytes(4) + message)
        await given.drain()
        return await out.readexactly(int.from_bytes(await out.readexactly(4)))
