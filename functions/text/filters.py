"""What postprocess does to a text, as a pure step that works on the whole and on pieces of it alike.

`step` gives the text that may go out now and the state for the next piece. A whole text is one final piece,
so both ways run the same code and give the same output.

Order: stop sequences (on what the model wrote), redaction, whitespace.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from functions.dialogue import MAX_INPUT_CHARS, Wire
from functions.text.redaction import DETECTORS, redact

Whitespace: TypeAlias = Literal["keep", "strip", "tidy"]
Kind: TypeAlias = Annotated[str, Field(max_length=32)]
Count: TypeAlias = Annotated[int, Field(ge=0)]


class FilterState(Wire):
    """What is known of a text so far; travels as the `carry` of a segment. It holds text not yet redacted."""

    stop_held: Annotated[str, Field(max_length=256)] = ""
    """The end of the text, which may be the beginning of a stop sequence."""
    stopped: bool = False
    before: Annotated[str, Field(max_length=1)] = ""
    """The last character that went through redaction, as context."""
    redact_held: Annotated[str, Field(max_length=MAX_INPUT_CHARS)] = ""
    """The end of the text, which may be the beginning of a secret."""
    redactions: Annotated[dict[Kind, Count], Field(max_length=len(DETECTORS))] = Field(default_factory=dict)
    """How many secrets of each kind were replaced."""
    space_held: Annotated[str, Field(max_length=MAX_INPUT_CHARS)] = ""
    """Whitespace that goes out only if something follows."""
    begun: bool = False
    """Something other than whitespace went out."""
    text: Annotated[str, Field(max_length=MAX_INPUT_CHARS)] | None = None
    """All that went out, where it is needed at the end."""

    @property
    def characters(self) -> int:
        """Characters of the text that it holds."""
        return len(self.stop_held) + len(self.redact_held) + len(self.space_held) + len(self.text or "")


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
        piece: the next part of the text; may be empty.
        final: nothing follows; what is held comes out.
        stop: the text ends before the first of these.
        kinds: secrets to replace, names from `functions.text.redaction.DETECTORS`.
        replacement: for a secret, with `{kind}`.
        whitespace: `keep`, `strip` both ends, or `tidy`: also the ends of lines and more than one empty line.

    Returns:
        The state behind the piece, and the text that may go out.
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
    """The text that passes, the text that is held, and whether a stop sequence was there.

    Of several, the one that is complete first counts, as it does for an engine that sees token after token.
    """
    found = [(at + len(sequence), at) for sequence in stop if (at := text.find(sequence)) >= 0]
    if found:
        return text[: min(found)[1]], "", True
    if final:
        return text, "", False
    held = max((_overlap(text, sequence) for sequence in stop), default=0)
    return text[: len(text) - held], text[len(text) - held :], False


def _overlap(text: str, sequence: str) -> int:
    """Length of the longest end of the text with which the sequence begins."""
    for length in range(min(len(sequence) - 1, len(text)), 0, -1):
        if text.endswith(sequence[:length]):
            return length
    return 0


# Anchored to the beginning of a run of spaces and without backtracking: linear for a run that no line ends.
_LINE_END = re.compile(r"(?<![^\S\n])[^\S\n]++\n")
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
