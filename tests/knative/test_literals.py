"""Numbers, durations and quantities, as Go and Kubernetes parse and print them."""

import time
from fractions import Fraction

import pytest

from knative import literals
from knative.literals import LiteralError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0), ("+7", 7), ("-0012", -12), ("2147483648", 2**31),
        ("", None), ("1.0", None), ("1e3", None), (" 1", None), ("²", None), ("٣", None), ("1_000", None),
    ],
)  # fmt: skip
def test_integers(text, value):
    assert literals.parse_integer(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("-2.5e2", -250.0),
        ("", None),
        ("inf", None),
        ("1e999", None),
        ("0x1", None),
    ],
)
def test_floats(text, value):
    assert literals.parse_float(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0), ("500m", Fraction(1, 2)), ("1.5Gi", 3 * 2**29), ("2e3", 2000), ("1E", 10**18), ("1e-3", Fraction(1, 1000)),
        ("-1k", -1000), ("1Ei", 2**60), ("9Ei", 2**63 - 1), ("1e999", 2**63 - 1), ("5", 5),
        ("", None), ("Mi", None), ("1 Gi", None), ("1gi", None), ("1e", None), ("0x10", None),
    ],
)  # fmt: skip
def test_quantities(text, value):
    assert literals.parse_quantity(text) == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("5x", 'time: unknown unit "x" in duration "5x"'),
        ("5", 'time: missing unit in duration "5"'),
        ("", 'time: invalid duration ""'),
        ("1h5x", 'time: unknown unit "x" in duration "1h5x"'),
    ],
)
def test_a_duration_is_refused_in_gos_words(text, words):
    with pytest.raises(LiteralError) as refused:
        literals.read_duration(text)
    assert str(refused.value) == words


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (Fraction(0), "0s"), (Fraction(3600), "1h0m0s"), (Fraction(90), "1m30s"), (Fraction(3, 2), "1.5s"),
        (Fraction(1, 4), "250ms"), (Fraction(1, 10**6), "1µs"), (Fraction(7, 10**9), "7ns"), (Fraction(-5), "-5s"),
    ],
)  # fmt: skip
def test_durations_are_printed_as_go_prints_them(seconds, text):
    assert literals.format_duration(seconds) == text


@pytest.mark.parametrize(("text", "bits", "value"), [("127", 8, 127), ("-128", 8, -128), ("+1", 64, 1)])
def test_integers_within_their_bits(text, bits, value):
    assert literals.read_integer(text, bits) == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("128", 'strconv.ParseInt: parsing "128": value out of range'),
        ("x", 'strconv.ParseInt: parsing "x": invalid syntax'),
    ],
)
def test_an_integer_is_refused_in_gos_words(text, words):
    with pytest.raises(LiteralError) as refused:
        literals.read_integer(text, 8)
    assert str(refused.value) == words


@pytest.mark.parametrize(("text", "value"), [("T", True), ("0", False), ("True", True)])
def test_booleans(text, value):
    assert literals.read_boolean(text) is value


@pytest.mark.parametrize("text", ["yes", "tRUE", ""])
def test_other_words_are_no_booleans(text):
    with pytest.raises(LiteralError):
        literals.read_boolean(text)


@pytest.mark.parametrize(("text", "value"), [("0", 0), (str(2**64 - 1), 2**64 - 1)])
def test_unsigned_integers(text, value):
    assert literals.read_unsigned(text) == value


@pytest.mark.parametrize("text", [str(2**64), "-1", "+1", "²", ""])
def test_what_is_no_unsigned_integer(text):
    with pytest.raises(LiteralError):
        literals.read_unsigned(text)


LONG = {
    "digits and a letter": "1" * 20_000 + "x",
    "digits": "1" * 20_000,
    "zeros": "0" * 20_000,
    "fractions": "1." + "0" * 20_000 + "x",
    "many parts": "1h" * 20_000 + "x",
    "a megabyte": "9" * 1_000_000 + "x",
}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_an_absurdly_long_text_is_no_number_and_takes_no_time(text):
    begun = time.process_time()
    assert literals.parse_integer(text) is None
    assert literals.parse_float(text) is None
    assert literals.parse_duration(text) is None
    assert literals.parse_quantity(text) is None
    readers = (literals.read_boolean, literals.read_duration, literals.read_float, literals.read_integer,
               literals.read_quantity, literals.read_unsigned)  # fmt: skip
    for read in readers:
        with pytest.raises(LiteralError) as refused:
            read(text)
        assert len(str(refused.value)) < 200
    assert time.process_time() - begun < 0.5


def test_a_long_integer_is_out_of_range():
    with pytest.raises(LiteralError, match="value out of range"):
        literals.read_integer("1" * 5_000)
