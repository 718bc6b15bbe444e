"""What a tool answered, as the model is told it (pure)."""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pydantic import JsonValue

from functions.contract import StageReply

ERROR_CHARS: Final = 2_000
"""Characters of an error at most; a model needs no page of HTML."""
EMPTY: Final = "(the tool answered with nothing)"


@dataclass(frozen=True, slots=True)
class ToolResult:
    """The result of one call.

    Attributes:
        text: for the model.
        error: the call did not succeed; the text says why, and what the model can do about it.
        data: structured, where the tool gives it beside its text.
    """

    text: str
    error: bool = False
    data: JsonValue = None

    def reply(self, request_id: str, tool: str) -> StageReply:
        """As the reply of a step, by which it is recorded."""
        data: dict[str, JsonValue] = {"error": self.error}
        if self.data is not None:
            data["structured"] = self.data
        return StageReply(id=request_id, stage=tool, output=self.text, data=data)

    @classmethod
    def of(cls, reply: StageReply) -> ToolResult:
        """From the reply of a step."""
        data = reply.data if isinstance(reply.data, dict) else {}
        return cls(reply.text, error=data.get("error") is True, data=data.get("structured"))


def failed(text: str) -> ToolResult:
    """A call that did not succeed."""
    return ToolResult(shortened(text, ERROR_CHARS), error=True)


def shortened(text: str, chars: int) -> str:
    """The text's beginning, with a sentence behind it where some is left out."""
    if len(text) <= chars:
        return text
    return f"{text[:chars]}\n[cut off here: {len(text)} characters, {chars} are shown]"


def read_answer(tool: str, *, status: int, content_type: str, body: bytes, whole: bool) -> ToolResult:
    """The result in a tool's HTTP response.

    Args:
        tool: its name, for the texts.
        status: of the response.
        content_type: without parameters, in lower case.
        body: as far as it was read.
        whole: whether that is all of it.
    """
    text = _text(body, whole=whole)
    is_json = content_type == "application/json" or content_type.endswith("+json")
    readable = is_json or content_type.startswith("text/")
    if status >= 300:
        return failed(_refusal(tool, status, text if readable else None))
    wrong = None
    if body and not readable:
        wrong = f"{content_type or 'no content type'}, which cannot be shown to you"
    elif text is None:
        wrong = "what is not UTF-8 text"
    elif whole and body and is_json and not _is_json(text):
        wrong = f"what is not JSON, although it says so: {text[:200]!r}"
    if wrong is not None or text is None:
        return failed(f"{tool} answered with {wrong}")
    if not whole:
        return ToolResult(f"{text}\n[cut off here: the answer is longer than {len(body)} bytes]")
    return ToolResult(text or EMPTY)


def _text(body: bytes, *, whole: bool) -> str | None:
    """The body as text, without a character that its end cuts; None if it is none."""
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(body, final=whole)
    except UnicodeDecodeError:
        return None


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _refusal(tool: str, status: int, text: str | None) -> str:
    said = None if text is None else _problem_text(text)
    if 300 <= status < 400:
        return f"{tool} answered with a redirect ({status}), which is not followed"
    if status in {400, 422}:
        begin = f"{tool} refuses these arguments"
    elif status in {401, 403}:
        return f"{tool} refuses the agent's credentials ({status}); it cannot be used"
    elif status in {404, 405}:
        begin = f"{tool} is not there ({status})"
    elif status == 429:
        begin = f"{tool} is overloaded ({status})"
    else:
        begin = f"{tool} failed ({status})"
    return f"{begin}: {said}" if said else begin


def _problem_text(text: str) -> str:
    """What a problem document says (RFC 9457), else the text itself."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return "" if text.lstrip()[:1] == "<" else text.strip()
    if not isinstance(value, Mapping):
        return text.strip()
    detail = value.get("detail") or value.get("message") or value.get("error") or value.get("title")
    errors = value.get("errors")
    said = detail if isinstance(detail, str) else text.strip()
    if isinstance(errors, list) and len(errors) > 1:
        said += f" {json.dumps(errors)}"
    return said
