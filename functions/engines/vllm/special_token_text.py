"""Token ids of conversations whose messages hold special tokens as ordinary text.

vLLM's chat API takes the text of a special token for the token. Its tokenizer is asked twice for the ids of a
conversation, the second time with other special tokens in the same places: where the ids differ, a special
token of a message stands, and the ids of its text take its place. Only conversations that hold such text need
this.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from functions.dialogue import Message
from functions.text.special_tokens import SpecialTokens, differing_positions

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_MARKER = "\uf8ff"
"""A private-use character: a token of its own in this module's tokenizer, in front of each text."""


class SpecialTokenText:
    """What is known of a model's special tokens.

    Args:
        tokens: the special tokens.
        path: `tokenizer.json`, loaded when it is first needed: large vocabularies take much memory.
    """

    def __init__(self, tokens: SpecialTokens, path: Path) -> None:
        self._tokens = tokens
        self._path = path
        self._tokenizer: Tokenizer | None = None
        self._text_ids: dict[int, tuple[int, ...]] = {}
        """The ids of a special token's text, by the token's id."""

    @classmethod
    def load(cls, model: Path) -> SpecialTokenText | None:
        """The special tokens of a model; None without a `tokenizer.json`. Blocking."""
        path = model / "tokenizer.json"
        try:
            # The list of added tokens alone: parsing a large vocabulary takes time and memory.
            text = path.read_text(encoding="utf-8")
            begin = text.index("[", text.index('"added_tokens"'))
            added, _ = json.JSONDecoder().raw_decode(text, begin)
            texts = {str(token["content"]) for token in added if token.get("special")}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return cls(SpecialTokens(frozenset(texts | _configured(model))), path)

    def needed_for(self, messages: Sequence[Message]) -> bool:
        """Whether a message holds a special token that has to be text."""
        return any(
            message.special_tokens is None
            and any(self._tokens.first_in(text) is not None for text in message.texts)
            for message in messages
        )

    def exchanged(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """The messages with other special tokens where they have to be text.

        Raises:
            ValueError: the model has no other special token.
        """
        return self._changed(messages, self._tokens.exchanged_in)

    def broken(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """The messages with an invisible character in each special token that has to be text."""
        return self._changed(messages, self._tokens.broken_in)

    async def as_text(self, ids: Sequence[int], exchanged: Sequence[int]) -> list[int] | None:
        """The ids with those of a text in place of each special token that differs.

        Args:
            ids: of a conversation.
            exchanged: of the same conversation with other special tokens.

        Returns:
            None if the two do not differ in special tokens alone.
        """
        positions = differing_positions(ids, exchanged)
        if positions is None:
            return None
        missing = {ids[at] for at in positions} - self._text_ids.keys()
        if missing:
            self._text_ids |= await asyncio.to_thread(self._encode, missing)
        if any(not self._text_ids[ids[at]] for at in positions):
            return None
        result: list[int] = []
        begin = 0
        for at in positions:
            result += [*ids[begin:at], *self._text_ids[ids[at]]]
            begin = at + 1
        return [*result, *ids[begin:]]

    def _changed(self, messages: Sequence[Message], change: Callable[[str], str]) -> tuple[Message, ...]:
        return tuple(
            message if message.special_tokens is not None else message.changed(change, arguments=True)
            for message in messages
        )

    def _encode(self, ids: set[int]) -> dict[int, tuple[int, ...]]:
        """The ids of the texts of these special tokens; empty for one that cannot be tokenized as text."""
        if self._tokenizer is None:
            self._tokenizer = _load(self._path)
        marker = self._tokenizer.token_to_id(_MARKER)
        known = self._tokenizer.get_added_tokens_decoder()
        encoded: dict[int, tuple[int, ...]] = {}
        for number in ids:
            text = known[number].content if number in known else ""
            # Behind the marker the text is not the first one, to which some tokenizers add a space.
            first, *rest = self._tokenizer.encode(_MARKER + text, add_special_tokens=False).ids
            is_text = first == marker and number not in rest and text in self._tokens.texts
            encoded[number] = tuple(rest) if is_text else ()
        return encoded


def _configured(model: Path) -> set[str]:
    """The special tokens that `tokenizer_config.json` names, such as `eos_token`."""
    try:
        config = json.loads((model / "tokenizer_config.json").read_text(encoding="utf-8"))
        named = [value for key, value in config.items() if key.endswith("_token")]
        additional = config.get("additional_special_tokens") or []
        tokens = [
            token.get("content") if isinstance(token, dict) else token for token in [*named, *additional]
        ]
    except (OSError, ValueError, TypeError, AttributeError):
        return set()
    return {token for token in tokens if isinstance(token, str) and token}


def _load(path: Path) -> Tokenizer:
    """The tokenizer, for which special tokens are text and the marker is a token."""
    from tokenizers import AddedToken, Tokenizer  # noqa: PLC0415 - most replicas never need it

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.add_tokens([AddedToken(_MARKER, special=False, normalized=False)])
    tokenizer.encode_special_tokens = True
    return tokenizer
