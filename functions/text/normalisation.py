"""The normal form of a text that a model reads. Pure, and linear in the length of the text.

Unicode NFC, line ends as line feeds, no characters that no text needs, and no more combining marks on one
character than any script uses.
"""

import re
import unicodedata

import regex

MAX_MARKS = 30
"""Combining marks in a row; more are removed. The bound of Unicode's Stream-Safe Text Format (UAX #15)."""

_LINE_ENDS = re.compile(r"\r\n?|\u2028|\u2029|\x85")
# C0 and C1 controls but tab and line feed, delete, the byte order mark; bidirectional overrides and tag
# characters, which make a text read differently from what the model sees.
_UNWANTED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f]")
# Characters of a canonical combining class other than 0. NFC sorts a run of them in quadratic time.
_EXCESS_MARKS = regex.compile(rf"(?<=[^\p{{ccc=0}}]{{{MAX_MARKS}}})[^\p{{ccc=0}}]+")


def normalise(text: str) -> str:
    """The text in its normal form; idempotent."""
    text = _UNWANTED.sub("", _LINE_ENDS.sub("\n", text))
    if text.isascii():
        return text
    # Once more at the end, because NFC takes some marks apart into two.
    return _without_excess_marks(unicodedata.normalize("NFC", _without_excess_marks(text)))


def _without_excess_marks(text: str) -> str:
    return _EXCESS_MARKS.sub("", text)
