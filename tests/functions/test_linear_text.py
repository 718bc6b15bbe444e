"""Everything that is done to a user's text takes time in proportion to its length, whatever the text is."""

import gc
import time
from collections.abc import Callable

import pytest

from functions.text.filters import FilterState, step
from functions.text.json_answer import parse_answer
from functions.text.normalisation import normalise
from functions.text.redaction import DETECTORS
from functions.timing import parse_server_timing

SHORT = 4_000
GROWTH = 8
"""The long text is so many times longer. Linear work takes as many times longer, quadratic 64 times."""
ALLOWED = 24.0
LONGEST = 64_000
FLOOR_S = 0.002
"""Times below it are noise."""


def seconds(work: Callable[[], object]) -> float:
    """The least processor time of several runs."""
    gc.disable()
    try:
        best = float("inf")
        for _ in range(3):
            began = time.thread_time()
            work()
            best = min(best, time.thread_time() - began)
        return best
    finally:
        gc.enable()


def filtered(mode: str) -> Callable[[str], object]:
    def work(text: str) -> object:
        state, _ = step(
            FilterState(text=""),
            text,
            final=False,
            kinds=tuple(DETECTORS),
            whitespace=mode,
            stop=("STOP", "\n\n\n#"),
        )
        return step(state, "", final=True, kinds=tuple(DETECTORS), whitespace=mode)

    return work


def parsed(text: str) -> object:
    try:
        return parse_answer(text)
    except ValueError as error:
        return error


WORK: dict[str, Callable[[str], object]] = {
    "normalise": normalise,
    "keep": filtered("keep"),
    "strip": filtered("strip"),
    "tidy": filtered("tidy"),
    "json": parsed,
    "server-timing": parse_server_timing,
}
PIECES = [
    "a",
    " ",
    "\t",
    "\n",
    " \n",
    "\r",
    "\u2028",
    "\u0301",
    "\u0301\u0316",
    "e\u0301",
    "\ufeff",
    "4",
    "4111 ",
    "4111-1111-",
    "a@",
    "a@a.",
    "a.",
    "eyJ",
    "eyJaaaaaaaaa.",
    "-----BEGIN ",
    "-----BEGIN PRIVATE KEY-----",
    "sk-",
    "ghp_",
    "STO",
    "<think>",
    "</think>",
    "```\n",
    "```json\n{}\n",
    "[",
    '{"a":',
    '"\\',
    "1e9,",
    ";a=",
    'a;b="\\',
    ",",
]


def times(name: str, piece: str, length: int) -> tuple[float, float]:
    """Processor times for a text of this length and for one that is `GROWTH` times as long."""
    short, long = ("x" + (piece * n)[:n] + "x" for n in (length, length * GROWTH))
    return seconds(lambda: WORK[name](short)), seconds(lambda: WORK[name](long))


@pytest.mark.clock
@pytest.mark.parametrize("name", WORK)
@pytest.mark.parametrize("piece", PIECES)
def test_work_grows_with_the_length_of_the_text_alone(name: str, piece: str):
    length = SHORT
    short, long = times(name, piece, length)
    while short < FLOOR_S and length < LONGEST:  # too quick to be measured
        length *= 4
        short, long = times(name, piece, length)
    assert long < ALLOWED * max(short, FLOOR_S)
