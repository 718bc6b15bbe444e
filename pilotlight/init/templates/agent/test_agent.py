"""Tests of the stage: as a function, and behind its HTTP application. `pytest` runs them."""

from clean import clean
from functions.sdk import StageRequest
from functions.sdk.testing import serving


def test_clean() -> None:
    assert clean(StageRequest(input="  two   words ")) == "two words"


def test_clean_as_the_agent_calls_it() -> None:
    with serving(clean) as client:
        assert client.invoke("  two   words ").output == "two words"
