"""Tests of the stage and the tools: as functions, and behind their HTTP application. `pytest` runs them."""

import pytest

from clean import clean
from functions.sdk import ProblemError, StageRequest, ToolError
from functions.sdk.testing import serving
from tools import calculator, open_articles, search


def test_clean() -> None:
    assert clean(StageRequest(input="  two   words ")) == "two words"


def test_calculator() -> None:
    assert calculator("(3 + 4) * 2.5") == 17.5
    with pytest.raises(ToolError, match="divides by zero"):
        calculator("1 / 0")


def test_search() -> None:
    articles = next(open_articles())
    assert "Reset password" in search("reset the password", articles)


def test_search_as_the_agent_calls_it() -> None:
    with serving(search) as client:
        assert "30 days" in client.call(query="backup")
        with pytest.raises(ProblemError, match="try other words"):
            client.call(query="zebra")
        with pytest.raises(ProblemError, match="query: is missing"):
            client.call()
