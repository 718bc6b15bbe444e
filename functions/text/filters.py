"""What postprocess does to a text, as a pure step that works on the whole and on pieces of it alike.

`step(config, state, piece, final)` gives the text that may go out now and the state for the next piece. The
whole text is one final piece, so both ways run the same code and give the same output.

Order: stop sequences (on what the model wrote), redaction, whitespace.
"""

import re
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from functions.contract import Wire
from functions.text.redaction import DETECTORS, redact

Whitespace = Literal["keep", "strip", "tidy"]


class FilterState(Wire):
    """What is known about a text so far; travels as the `carry` of a segment. Holds back unredacted text."""

    stop_held: str = ""
    """The end of the text, which may be the beginning of a stop sequence."""
    stopped: bool = False
    before: str = ""
    """The last character that went through redaction, as context."""
    redact_held: str = ""
    """The end of the text, which may be the beginning of a secret."""
    redactions: dict[str, int] = Field(default_factory=dict)
    space_held: str = ""
    """Whitespace that goes out only if something follows."""
    begun: bool = False
    """Something else than whitespace went out."""
    text: str | None = None
    """All that went out, where it is needed at the end."""


def step(
    state: FilterState,
    piece: str,
    *,
    final: bool,
    stop: Sequence[str] = (),
    kinds: Sequence[str] = (),
    replacement: str = "[redacted {kind}]",
    whitespace: Whitespace = "strip",
) -> tuple[FilterState, str]:
    """Take the next piece of a text.

    Args:
        state: after the pieces before.
        piece: may be empty.
        final: nothing follows; what is held comes out.
        stop: the text ends before the first of these.
        kinds: secrets to replace, names from `functions.text.redaction.DETECTORS`.
        replacement: for a secret, with `{kind}`.
        whitespace: `keep`, `strip` both ends, or `tidy`: also the ends of lines and more than one empty line.
    """
    if state.stopped:
        return state, ""
    out, stop_held, stopped = _until_stop(state.stop_held + piece, stop, final=final)
    final = final or stopped

    text = state.before + state.redact_held + out
    done = redact(
        text,
        [DETECTORS[kind] for kind in kinds],
        start=len(state.before),
        final=final,
        replacement=replacement,
    )
    counts = dict(state.redactions)
    for span in done.spans:
        counts[span.kind] = counts.get(span.kind, 0) + 1

    out, space_held, begun = _space(done.text, state.space_held, state.begun, whitespace, final=final)
    after = FilterState(
        stop_held=stop_held,
        stopped=stopped,
        before=text[: done.held_from][-1:],
        redact_held=text[done.held_from :],
        redactions=counts,
        space_held=space_held,
        begun=begun,
        text=None if state.text is None else state.text + out,
    )
    return after, out


def _until_stop(text: str, stop: Sequence[str], *, final: bool) -> tuple[str, str, bool]:
    """What may go on, what is held, and whether a stop sequence was there.

    Of several the one that is complete first counts, as it does for an engine that sees token after token.
    """
    found = [(at + len(sequence), at) for sequence in stop if (at := text.find(sequence)) >= 0]
    if found:
        return text[: min(found)[1]], "", True
    if final:
        return text, "", False
    held = max((_overlap(text, sequence) for sequence in stop), default=0)
    return text[: len(text) - held], text[len(text) - held :], False


def _overlap(text: str, sequence: str) -> int:
    """Length of the longest end of the text that begins the sequence."""
    for length in range(min(len(sequence) - 1, len(text)), 0, -1):
        if text.endswith(sequence[:length]):
            return length
    return 0


_LINE_END = re.compile(r"[^\S\n]+\n")
_EMPTY_LINES = re.compile(r"\n{3,}")


def _space(text: str, held: str, begun: bool, mode: Whitespace, *, final: bool) -> tuple[str, str, bool]:  # noqa: FBT001 - state
    if mode == "keep":
        return text, "", True
    text = held + text
    body = text.rstrip()
    held = "" if final else text[len(body) :]
    if not begun:
        body = body.lstrip()
        begun = bool(body)
        if not begun:
            return "", "", False
    if mode == "tidy":
        # Every run of whitespace in the body is complete: the last one is held until something follows it.
        body = _EMPTY_LINES.sub("\n\n", _LINE_END.sub("\n", body))
    return body, held, begun
