"""The identity of a request across stages: `X-Request-Id`. The trace's is in `transport.trace_context`."""

import re
import secrets
from collections.abc import Callable

_REQUEST_ID = re.compile(r"^[\x21-\x7e]{1,128}$")


def request_id(received: str | None, *, new_id: Callable[[int], str] = secrets.token_hex) -> str:
    """The `X-Request-Id` as it came; a new one unless it has 1 to 128 printable ASCII characters."""
    return received if received and _REQUEST_ID.match(received) else new_id(16)
