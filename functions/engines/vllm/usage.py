"""The tokens that a response of vLLM's server reports, without parsing every event of a stream.

vLLM reports a stream's tokens only if its request asks for that. For a caller whose use is counted the proxy
asks, and takes the report out again where the client did not.
"""

from __future__ import annotations

import json
from typing import Any

from functions.contract import Usage

_USAGE = b'"usage":'
"""Within a JSON text, quotes have a backslash before them, so this can only be the member."""
_NAMES = (("prompt_tokens", "completion_tokens"), ("input_tokens", "output_tokens"))
_LONGEST = 2_000
"""Characters of the object at most, from its name."""


def ask_for_usage(body: bytes) -> tuple[bytes, bool]:
    """The request with `stream_options.include_usage`, and whether the client did not ask for it itself.

    A request that is no stream, or that the server will refuse anyway, stays as it is.
    """
    try:
        request = json.loads(body)
    except ValueError:
        return body, False
    if not isinstance(request, dict) or request.get("stream") is not True:
        return body, False
    options = request.get("stream_options")
    if options is not None and not isinstance(options, dict):
        return body, False
    if options and options.get("include_usage"):
        return body, False
    request["stream_options"] = {**(options or {}), "include_usage": True}
    return json.dumps(request).encode(), True


def usage_in(data: bytes) -> Usage | None:
    """The last report of tokens in a body or in events; None without one."""
    begin = data.rfind(_USAGE)
    if begin < 0:
        return None
    text = data[begin + len(_USAGE) : begin + _LONGEST].decode(errors="replace").lstrip()
    try:
        value, _ = json.JSONDecoder().raw_decode(text)
    except ValueError:
        return None
    if not isinstance(value, dict):
        return None
    for prompt, completion in _NAMES:
        if isinstance(value.get(prompt), int):
            return Usage(prompt_tokens=value[prompt], completion_tokens=_count(value.get(completion)))
    return None


class UsageFilter:
    """Reads the tokens of a stream as it passes, and takes out the event that only reports them.

    Args:
        strip: whether that event is taken out.
    """

    def __init__(self, *, strip: bool) -> None:
        self._strip = strip
        self._unfinished = b""
        self.usage: Usage | None = None

    def feed(self, data: bytes) -> bytes:
        """What of the stream is passed on now. Events are passed on whole while any are taken out."""
        if not self._strip:
            self.usage = usage_in(data) or self.usage
            return data
        data = self._unfinished + data
        end = data.rfind(b"\n\n") + 2 if b"\n\n" in data else 0
        complete, self._unfinished = data[:end], data[end:]
        if _USAGE not in complete:
            return complete
        self.usage = usage_in(complete) or self.usage
        return b"".join(
            event + b"\n\n" for event in complete.split(b"\n\n") if event and not _only_reports(event)
        )

    def rest(self) -> bytes:
        """What is left at the end of the stream."""
        rest, self._unfinished = self._unfinished, b""
        return rest


def _only_reports(event: bytes) -> bool:
    """Whether an event has no choices, only the tokens."""
    if _USAGE not in event or b'"choices":[]' not in event.replace(b" ", b""):
        return False
    try:
        value: Any = json.loads(event.partition(b":")[2])
    except ValueError:
        return False
    return isinstance(value, dict) and value.get("choices") == [] and bool(value.get("usage"))


def _count(value: Any) -> int:
    return value if isinstance(value, int) else 0
