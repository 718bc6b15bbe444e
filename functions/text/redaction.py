"""Finding secrets: e-mail addresses, payment cards, keys. Pure, and exact on streams.

Each detector answers two questions about a text: which spans are secrets, and from which index on a secret
could still be completed by text that has not arrived. The text before that index may go out, the text behind
it is held back. So a stream, cut anywhere, is redacted to the same text as the whole (a property test holds
this), and of ordinary text no more than a word is held.

The second question is answered by partial matching (`regex`'s `partial=True`): the earliest start of a match
that the end of the text leaves unfinished.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import regex

# A noncharacter, which no text contains: a pattern that asks for it can only match partially.
_NEVER = "\U0010ffff"

_EMAIL = (
    r"(?<![A-Za-z0-9._%+\-])[A-Za-z0-9._%+\-]{1,64}"
    r"@(?:[A-Za-z0-9\-]{1,63}\.){1,8}(?:[A-Za-z]{2,63}|xn--[A-Za-z0-9\-]{1,59})"
)

KEY_SHAPES = (
    r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}",  # AWS access key id
    r"gh[pousr]_[A-Za-z0-9]{36,255}",  # GitHub tokens
    r"github_pat_[A-Za-z0-9_]{22,255}",
    r"glpat-[A-Za-z0-9_\-]{20,255}",  # GitLab
    r"xox[abeoprs]-[A-Za-z0-9\-]{10,255}",  # Slack
    r"AIza[A-Za-z0-9_\-]{35}",  # Google API
    r"ya29\.[A-Za-z0-9_\-]{20,2048}",  # Google OAuth access token
    r"[sr]k_(?:live|test)_[A-Za-z0-9]{16,255}",  # Stripe
    r"sk-[A-Za-z0-9_\-]{20,255}",  # OpenAI, Anthropic and those that follow them
    r"hf_[A-Za-z0-9]{30,255}",  # Hugging Face
    r"npm_[A-Za-z0-9]{36}",
    r"pypi-[A-Za-z0-9_\-]{50,1024}",
    r"SG\.[A-Za-z0-9_\-]{16,64}\.[A-Za-z0-9_\-]{16,64}",  # SendGrid
    # JSON Web Token. Not after a character that it may contain itself: a text of beginnings stays linear.
    r"(?<![_\-])eyJ[A-Za-z0-9_\-]{8,4096}\.eyJ[A-Za-z0-9_\-]{8,4096}\.[A-Za-z0-9_\-]{8,4096}",
)
_PEM = "(?:[A-Z0-9]{1,16} ){0,3}PRIVATE KEY-----"
_KEY = (
    rf"(?<![A-Za-z0-9])(?:{'|'.join(KEY_SHAPES)})"
    rf"|-----BEGIN {_PEM}[^\-]{{0,16384}}(?:-----END {_PEM})?"
)

_DIGITS = regex.compile(r"\d(?:[ \-]?\d)*[ \-]?", regex.ASCII)
_GROUP = regex.compile(r"\d+", regex.ASCII)
_CARD_MIN, _CARD_MAX = 13, 19
"""Digits of a primary account number, ISO/IEC 7812-1."""


@dataclass(frozen=True, slots=True)
class Span:
    """A secret at `text[start:end]`."""

    start: int
    end: int
    kind: str


class Detector(Protocol):
    """Finds one kind of secret."""

    @property
    def kind(self) -> str:
        """Name, as in the configuration and in the replacement."""
        ...

    def spans(self, text: str, start: int) -> Iterator[Span]:
        """The secrets in `text[start:]`; characters before `start` are context only."""
        ...

    def pending(self, text: str, start: int) -> int:
        """The first index, at least `start`, from which more text could complete or lengthen a secret."""
        ...


class Pattern:
    """Secrets that a regular expression describes.

    The expression has no lookahead, so that a match depends on the text behind it by its greed alone.

    Args:
        kind: name.
        pattern: the expression.
        longest: characters of its longest match, so how far back an unfinished match can begin.
    """

    def __init__(self, kind: str, pattern: str, *, longest: int) -> None:
        self.kind = kind
        self._longest = longest
        self._pattern = regex.compile(pattern)
        self._alive = regex.compile(f"(?:{pattern}){_NEVER}")

    def spans(self, text: str, start: int) -> Iterator[Span]:
        """See `Detector`."""
        for match in self._pattern.finditer(text, start):
            yield Span(match.start(), match.end(), self.kind)

    def pending(self, text: str, start: int) -> int:
        """See `Detector`."""
        match = self._alive.search(text, max(start, len(text) - self._longest), partial=True)
        return len(text) if match is None else match.start()


class Cards:
    """Payment card numbers: 13 to 19 digits of an issuer's range that pass the Luhn check (ISO/IEC 7812-1).

    Written in one piece, or in groups of at least three digits (the first of four) with one space or hyphen
    between. Every such stretch of a run of digits is tried, so that a security code or a date behind the
    number does not hide it.
    """

    kind = "card"

    def spans(self, text: str, start: int) -> Iterator[Span]:
        """See `Detector`."""
        for run in _DIGITS.finditer(text, start):
            if run.end() - run.start() < _CARD_MIN:
                continue
            groups = [match.span() for match in _GROUP.finditer(text, run.start(), run.end())]
            for first in range(len(groups)):
                for digits, last in _stretches(text, groups, first):
                    if len(digits) >= _CARD_MIN and _passes_luhn(digits):
                        yield Span(groups[first][0], groups[last][1], self.kind)

    def pending(self, text: str, start: int) -> int:
        """See `Detector`."""
        begin = max(start, len(text) - 4 * _CARD_MAX)
        while start < begin < len(text) and text[begin - 1].isdigit():
            begin += 1  # not in the middle of a group
        runs = list(_DIGITS.finditer(text, begin))
        if not runs or runs[-1].end() != len(text):
            return len(text)
        run = runs[-1]
        groups = [match.span() for match in _GROUP.finditer(text, run.start(), run.end())]
        for first in range(len(groups)):
            stretches = list(_stretches(text, groups, first, growing=True))
            if stretches and stretches[-1][1] == len(groups) - 1:
                return groups[first][0]
        return len(text)


def _stretches(
    text: str, groups: Sequence[tuple[int, int]], first: int, *, growing: bool = False
) -> Iterator[tuple[str, int]]:
    """The digits and the last group of each stretch from `first` that is laid out like a card number.

    Args:
        text: has the digits.
        groups: where its groups of digits begin and end.
        first: the group to begin with.
        growing: the last group may still get longer.
    """
    digits = ""
    if text[groups[first][0]] not in "23456":
        return
    for last in range(first, len(groups)):
        begin, end = groups[last]
        open_end = growing and last == len(groups) - 1
        size = end - begin
        if last > first:
            head = groups[first][1] - groups[first][0]
            if head != 4 or (size < 3 and not open_end):
                return
        digits += text[begin:end]
        if len(digits) > _CARD_MAX:
            return
        yield digits, last


def _passes_luhn(digits: str) -> bool:
    total = 0
    for position, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if position % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


DETECTORS: dict[str, Detector] = {
    "email": Pattern("email", _EMAIL, longest=64 + 1 + 8 * 64 + 63),
    "card": Cards(),
    "key": Pattern("key", _KEY, longest=17_000),
}
"""By their names in the configuration. Stateless, so one of each serves all requests."""


@dataclass(frozen=True, slots=True)
class Redacted:
    """The text that may go out, and from where on the text is held back."""

    text: str
    held_from: int
    """Index into the given text; its length when nothing is held."""
    spans: tuple[Span, ...]


def redact(
    text: str, detectors: Sequence[Detector], *, start: int = 0, final: bool = True, replacement: str
) -> Redacted:
    """Replace the complete secrets in `text[start:]`.

    Args:
        text: with the character before `start` as context, if there is any.
        detectors: what to look for; overlapping finds become one, named after the first.
        start: the text before it has gone out.
        final: no more text will come, so nothing is held back.
        replacement: of a secret, with `{kind}` where the kind goes.
    """
    spans = merged(span for detector in detectors for span in detector.spans(text, start))
    held = len(text) if final else min((d.pending(text, start) for d in detectors), default=len(text))
    for span in reversed(spans):
        if span.end > held:
            held = min(held, span.start)
    out, at, settled = [], start, []
    for span in spans:
        if span.end <= held:
            out += [text[at : span.start], replacement.replace("{kind}", span.kind)]
            at = span.end
            settled.append(span)
    out.append(text[at:held])
    return Redacted("".join(out), held, tuple(settled))


def merged(spans: Iterator[Span] | Sequence[Span]) -> list[Span]:
    """The spans in order, overlapping ones joined."""
    result: list[Span] = []
    for span in sorted(spans, key=lambda s: (s.start, -s.end)):
        if result and span.start < result[-1].end:
            last = result[-1]
            result[-1] = Span(last.start, max(last.end, span.end), last.kind)
        else:
            result.append(span)
    return result
