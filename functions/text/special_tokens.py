"""A tokenizer's special tokens (`<|im_start|>`, `</s>`) in ordinary text. Pure.

A tokenizer takes the text of a special token for the token itself, wherever it stands: in a page of HTML
(`<s>`), a log that a user pasted, an answer of the model's own. In a message of a conversation they are text.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

_WORD_JOINER = "\u2060"


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """The special tokens of one tokenizer, by their texts."""

    texts: frozenset[str]
    _pattern: re.Pattern[str] | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Longest first, as tokenizers match them.
        alternatives = "|".join(map(re.escape, sorted(filter(None, self.texts), key=len, reverse=True)))
        object.__setattr__(self, "_pattern", re.compile(alternatives) if alternatives else None)

    def first_in(self, text: str) -> str | None:
        """The first special token in a text; None without any."""
        found = self._pattern.search(text) if self._pattern is not None else None
        return None if found is None else found[0]

    def all_in(self, text: str) -> tuple[str, ...]:
        """The special tokens in a text, in order."""
        return () if self._pattern is None else tuple(self._pattern.findall(text))

    def exchanged_in(self, text: str) -> str:
        """The text with each special token replaced by another one; equal tokens by equal ones.

        Tokenized, both texts differ in exactly the ids of the special tokens that stand in them.

        Raises:
            ValueError: there is no other special token.
        """
        if self._pattern is None:
            return text
        ordered = sorted(filter(None, self.texts))
        if len(ordered) < 2:
            raise ValueError("the tokenizer has a single special token")
        after = dict(zip(ordered, [*ordered[1:], ordered[0]], strict=True))
        return self._pattern.sub(lambda found: after[found[0]], text)

    def broken_in(self, text: str) -> str:
        """The text with an invisible word joiner (U+2060) inside each special token, so that it is none."""
        if self._pattern is None:
            return text
        return self._pattern.sub(lambda found: found[0][:1] + _WORD_JOINER + found[0][1:], text)


def differing_positions(one: Sequence[int], other: Sequence[int]) -> tuple[int, ...] | None:
    """Where two sequences of token ids differ; None if their lengths differ."""
    if len(one) != len(other):
        return None
    return tuple(at for at, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)
