"""A process that works out expressions: `python -m functions.graph.evaluate`, driven by its standard streams.

The library holds Python's lock while it works, and its `map` and `filter` take time that grows with the
square of the list; in a process of its own an expression keeps nobody else waiting, and can be ended.

A message either way is its length in 4 bytes, then JSON: `[source, variables]`, then `{"value": ...}` or
`{"error": "..."}`. It ends when its input does.
"""

import json
import signal
import sys
from functools import lru_cache
from typing import Any, BinaryIO

from functions.graph.conditions import Condition, ExpressionError

_compiled = lru_cache(maxsize=256)(Condition)


def answer(message: bytes) -> bytes:
    """The answer to one message."""
    source, variables = json.loads(message)
    try:
        told: dict[str, Any] = {"value": _compiled(source).value(variables)}
        return json.dumps(told).encode()
    except ExpressionError as error:
        told = {"error": str(error)}
    except (TypeError, ValueError):
        told = {"error": f"{source!r} gives a value that is no JSON"}
    return json.dumps(told).encode()


def serve(given: BinaryIO, out: BinaryIO) -> None:
    """Answer until the input ends."""
    while head := given.read(4):
        told = answer(given.read(int.from_bytes(head)))
        out.write(len(told).to_bytes(4) + told)
        out.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the replica, which then closes the input
    serve(sys.stdin.buffer, sys.stdout.buffer)
