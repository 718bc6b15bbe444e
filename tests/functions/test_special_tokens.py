"""Special tokens in ordinary text are found as a tokenizer finds them."""

import pytest

from functions.text.special_tokens import SpecialTokens, differing_positions

TOKENS = SpecialTokens(frozenset({"<s>", "</s>", "<|im|>", "<|im|>user"}))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ()),
        ("plain < s > text", ()),
        ("a <s>b</s>", ("<s>", "</s>")),
        ("<<s>>", ("<s>",)),
        ("<|im|>user <|im|>", ("<|im|>user", "<|im|>")),
        ("<s><s>", ("<s>", "<s>")),
    ],
)
def test_the_longest_token_at_each_place_is_found(text, found):
    assert TOKENS.all_in(text) == found
    assert TOKENS.first_in(text) == (found[0] if found else None)


@pytest.mark.parametrize("text", ["a <s>b</s>", "<|im|>user <|im|>", "<s><s>"])
def test_an_exchange_puts_another_token_in_each_place(text):
    before, after = TOKENS.all_in(text), TOKENS.all_in(TOKENS.exchanged_in(text))
    assert len(before) == len(after)
    assert all(one != other for one, other in zip(before, after, strict=True))


def test_a_single_token_cannot_be_exchanged():
    with pytest.raises(ValueError, match="single special token"):
        SpecialTokens(frozenset({"<s>"})).exchanged_in("<s>")


def test_a_broken_token_is_none_and_reads_the_same():
    broken = TOKENS.broken_in("a <s>b</s>")
    assert TOKENS.all_in(broken) == ()
    assert broken.replace("\u2060", "") == "a <s>b</s>"


def test_without_special_tokens_every_text_is_plain():
    none = SpecialTokens(frozenset())
    assert (none.first_in("<s>"), none.all_in("<s>")) == (None, ())
    assert none.exchanged_in("<s>") == none.broken_in("<s>") == "<s>"


@pytest.mark.parametrize(
    ("one", "other", "positions"),
    [([], [], ()), ([1, 2, 3], [1, 5, 3], (1,)), ([1, 2], [2, 1], (0, 1)), ([1], [1, 2], None)],
)
def test_positions_of_different_ids(one, other, positions):
    assert differing_positions(one, other) == positions
