"""Redaction of a stream: the same text as of the whole, and never a secret in between."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.text.filters import FilterState, step
from functions.text.redaction import DETECTORS

KINDS = tuple(DETECTORS)
SECRETS = {
    "email": ["jo.doe+x@mail.example.co.uk", "a@b.de", "UPPER_case%1@sub-domain.example.museum"],
    "card": [
        "4111 1111 1111 1111",
        "5500-0000-0000-0004",
        "378282246310005",
        "3782 822463 10005",
        "6011000990139424",
    ],
    "key": [
        "AKIAIOSFODNN7EXAMPLE",
        "ghp_" + "a1B2" * 9,
        "sk-" + "proj-Abc123_" * 3,
        "AIza" + "SyD-" * 8 + "abc",
        "xoxb-1234567890-abcdef",
        "sk_" + "live_" + "4eC39HqLyjWDarjtT1zdp7dc",
        "eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc=\n-----END RSA PRIVATE KEY-----",
    ],
}
ALL = [(kind, secret) for kind, secrets in SECRETS.items() for secret in secrets]


def whole(text, **kwargs):
    return step(FilterState(), text, final=True, kinds=KINDS, **kwargs)


def streamed(pieces, **kwargs):
    state, out = FilterState(), []
    for piece in pieces:
        state, text = step(state, piece, final=False, kinds=KINDS, **kwargs)
        out.append(text)
    state, text = step(state, "", final=True, kinds=KINDS, **kwargs)
    return state, [*out, text]


@pytest.mark.parametrize(("kind", "secret"), ALL)
@pytest.mark.parametrize("frame", ["{}", "write to {} now", "<{}>", "({}), then.", "see:\n{}\nend"])
def test_every_known_shape_is_replaced_in_any_surroundings(kind, secret, frame):
    state, out = whole(frame.format(secret))
    assert out == frame.format(f"[redacted {kind}]")
    assert state.redactions == {kind: 1}


@pytest.mark.parametrize(("kind", "secret"), ALL)
def test_cut_anywhere_no_piece_of_a_secret_leaves(kind, secret):
    text = f"before {secret} after"
    for cut in range(len(text) + 1):
        _, out = streamed([text[:cut], text[cut:]])
        assert "".join(out) == f"before [redacted {kind}] after"


@pytest.mark.parametrize(("kind", "secret"), ALL)
def test_character_by_character_no_piece_of_a_secret_leaves(kind, secret):
    _, out = streamed(f"before {secret} after")
    assert "".join(out) == f"before [redacted {kind}] after"


@pytest.mark.parametrize(
    "text",
    [
        "order 4111 1111 1111 1112 is no card, its check digit is wrong",
        "call +49 30 901820 or 555-0100",
        "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20",
        "an@sign and user@host without a domain",
        "the key is AKIA and short; sk-short; eyJ.eyJ.x",
        "2026-11-24T10:49:24.598308+00:00",
        "id 12345678901234567890123456789012345678",
    ],
)
def test_what_only_looks_like_a_secret_stays(text):
    assert whole(text)[1] == text
    assert "".join(streamed(text)[1]) == text


def test_a_code_or_date_behind_a_card_number_does_not_hide_it():
    assert whole("4111 1111 1111 1111 123")[1] == "[redacted card] 123"
    assert whole("4111-1111-1111-1111 12/29")[1] == "[redacted card] 12/29"


def test_an_unclosed_private_key_is_replaced_to_the_end():
    assert whole("x -----BEGIN PRIVATE KEY-----\nMIIEabc")[1] == "x [redacted key]"


def test_at_most_the_last_word_is_held_of_ordinary_text():
    state, out = FilterState(), ""
    text = "The lamp of 1911 burns on; nothing here is secret, not even 42 or a/b."
    for at in range(len(text)):
        state, piece = step(state, text[at], final=False, kinds=KINDS)
        out += piece
        held = text[len(out) : at + 1]
        assert len(held.split()) <= 1, held


fragments = st.one_of(
    st.sampled_from([secret for _, secret in ALL]),
    st.sampled_from([secret[:n] for _, secret in ALL for n in (3, 7, 11)]),
    st.sampled_from(
        [
            " ",
            "\n",
            "  \n\n\n",
            ".",
            "@",
            "-",
            "4",
            "4111 ",
            "1111",
            "0000-",
            "a",
            "sk-",
            "eyJ",
            ".com",
            "STOP",
            "ST",
            "é",
        ]
    ),
    st.text(max_size=5),
)


@settings(max_examples=400, deadline=None)
@given(
    parts=st.lists(fragments, max_size=12),
    cuts=st.lists(st.integers(0, 300), max_size=12),
    mode=st.sampled_from(["keep", "strip", "tidy"]),
    stop=st.sampled_from([(), ("STOP",), ("STOP", "TO"), ("\n\n",)]),
)
def test_a_stream_gives_the_text_of_the_whole_however_it_is_cut(parts, cuts, mode, stop):
    text = "".join(parts)
    places = sorted({min(cut, len(text)) for cut in cuts})
    pieces = [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]
    expected_state, expected = whole(text, whitespace=mode, stop=stop)
    state, out = streamed(pieces, whitespace=mode, stop=stop)
    assert "".join(out) == expected
    assert state.redactions == expected_state.redactions
    assert state.stopped == expected_state.stopped


@pytest.mark.parametrize("beginning", ["eyJ-", "_eyJ", "sk-", "a@a.", "-----BEGIN ", "4111 ", "x-", "SG."])
def test_a_text_of_beginnings_alone_takes_time_in_proportion_to_its_length(beginning):
    """Counted in steps of the slowest kind, quadratic growth would take minutes here; the suite's limit ends it."""
    text = (beginning * 200_000)[:400_000]
    state, out = step(FilterState(), text, final=False, kinds=KINDS)
    _, rest = step(state, "", final=True, kinds=KINDS)
    assert len(out) + len(rest) > 0
