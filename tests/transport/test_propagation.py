"""The header fields that travel with a request: what is read from them, and what is not believed."""

import pytest

from transport.propagation import MAX_RETRIES, parse_deadline, parse_held, parse_retries


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(b"0", 0.0), (b"-1.5", -1.5), (b"2.25", 2.25), (b"1e2", 100.0), (b".5", 0.5), (b"604800", 604800.0)],
)
def test_a_deadline_is_a_decimal_number(value: bytes, seconds: float):
    assert parse_deadline(value) == seconds


@pytest.mark.parametrize(
    "value",
    [b"", b"soon", b"nan", b"inf", b"-inf", b"1e300", b"604801", b"1_0", b"0x1", b"1 2", b"1" * 33, b"\xb2"],
)
def test_another_deadline_is_refused_with_what_would_be_right(value: bytes):
    with pytest.raises(ValueError, match="seconds left, a decimal number up to 604800"):
        parse_deadline(value)


@pytest.mark.parametrize(
    ("value", "seconds"), [(None, None), (b"0", 0.0), (b"1.5", 1.5), (b"-1", None), (b"x", None)]
)
def test_a_held_time_that_says_nothing_is_unknown(value: bytes | None, seconds: float | None):
    assert parse_held(value) == seconds


@pytest.mark.parametrize(
    ("value", "retries"),
    [
        (None, None),
        (b"0", 0),
        (b"7", 7),
        (b"007", 7),
        (b"101", MAX_RETRIES),
        (b"9" * 5000, MAX_RETRIES),
        (b"-1", None),
        (b"\xb2", None),
        (b"", None),
        (b"3.0", None),
    ],
)
def test_a_number_of_retries_is_bounded(value: bytes | None, retries: int | None):
    assert parse_retries(value) == retries
