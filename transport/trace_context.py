"""W3C trace context (https://www.w3.org/TR/trace-context/): reading and continuing a `traceparent`."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable

TRACEPARENT = b"traceparent"
_TRACEPARENT = re.compile(r"^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$")


def is_valid(received: str | None) -> bool:
    """Whether a `traceparent` names a span that can be continued."""
    match = _TRACEPARENT.match((received or "").strip())
    if match is None:
        return False
    version, trace, parent, _, rest = match.groups()
    return version != "ff" and trace != "0" * 32 and parent != "0" * 16 and not (version == "00" and rest)


def continue_trace(received: str | None, *, new_id: Callable[[int], str] = secrets.token_hex) -> str:
    """The `traceparent` of this hop: the received trace with a new span id, or a new trace.

    Args:
        received: the header as it came; a malformed one starts a new trace, as the W3C text has it.
        new_id: n random bytes in hexadecimal.
    """
    if received is not None and is_valid(received):
        _, trace, _, flags = received.strip().split("-")[:4]
        return f"00-{trace}-{new_id(8)}-{flags}"
    return f"00-{new_id(16)}-{new_id(8)}-01"
