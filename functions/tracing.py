"""The identity of a request across stages: `X-Request-Id` and W3C trace context.

A stage keeps the trace id that it receives, and makes one where there is none
(https://www.w3.org/TR/trace-context/). Random ids come from an argument, so that tests can choose them.
"""

import re
import secrets
from collections.abc import Callable

_TRACEPARENT = re.compile(r"^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$")
_REQUEST_ID = re.compile(r"^[\x21-\x7e]{1,128}$")


def continue_trace(received: str | None, *, new_id: Callable[[int], str] = secrets.token_hex) -> str:
    """The `traceparent` of this hop: the received trace with a new span id, or a new trace.

    Args:
        received: the header as it came; a malformed one starts a new trace, as the W3C text has it.
        new_id: n random bytes in hexadecimal.
    """
    match = _TRACEPARENT.match((received or "").strip())
    if match:
        version, trace, parent, flags, rest = match.groups()
        valid = (
            version != "ff" and trace != "0" * 32 and parent != "0" * 16 and not (version == "00" and rest)
        )
        if valid:
            return f"00-{trace}-{new_id(8)}-{flags}"
    return f"00-{new_id(16)}-{new_id(8)}-01"


def request_id(received: str | None, *, new_id: Callable[[int], str] = secrets.token_hex) -> str:
    """The `X-Request-Id` as it came; a new one unless it has 1 to 128 printable ASCII characters."""
    return received if received and _REQUEST_ID.match(received) else new_id(16)
