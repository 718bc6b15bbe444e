"""Whether a new Revision is worse: the tests' values against published ones, and what they lead to."""

import math
from datetime import timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.warmpool.reconcile.builders import NOW
from warmpool.domain.answers import AnswerCounts, AnswerReading, Histogram, RolloutWindow
from warmpool.domain.proportions import Proportion, fisher_greater, newcombe
from warmpool.domain.rollout import Rollout
from warmpool.reconcile import canary_analysis
from warmpool.reconcile.canary_analysis import AnalysisState, Outcome, judge

WINDOW = RolloutWindow(("default", "s"), "r1", "r2", 5, NOW)


@pytest.mark.parametrize(
    ("first", "second", "p"),
    [
        ((3, 4), (1, 4), 0.242857142857),  # the lady tasting tea: 17 of 70
        ((4, 4), (0, 4), 0.014285714286),  # 1 of 70
        ((8, 10), (1, 6), 0.024475524476),  # R: fisher.test(matrix(c(8,2,1,5),2), alternative="greater")
        ((0, 10), (5, 10), 1.0),
        ((5, 25), (0, 475), 53_130 / 255_244_687_600),  # C(25,5) of C(500,5)
    ],
)
def test_fishers_exact_test_has_the_published_values(first, second, p):
    assert fisher_greater(Proportion(*first), Proportion(*second)) == pytest.approx(p, rel=1e-4)


@pytest.mark.parametrize(
    ("first", "second", "low", "high"),
    [  # Newcombe 1998, table II, method 10, 95 % two-sided
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((10, 10), (0, 20), 0.6791, 1.0),
        ((0, 10), (0, 20), -0.1611, 0.2775),
    ],
)
def test_newcombes_interval_has_the_published_values(first, second, low, high):
    found = newcombe(Proportion(*first), Proportion(*second), 0.975)
    assert found == (pytest.approx(low, abs=6e-4), pytest.approx(high, abs=6e-4))


@given(st.integers(0, 40), st.integers(1, 40), st.integers(0, 40), st.integers(1, 40))
def test_fishers_tail_is_the_sum_of_the_hypergeometric_distribution(hits, total, other, others):
    first, second = Proportion(min(hits, total), total), Proportion(min(other, others), others)
    k, n = first.hits + second.hits, total + others
    ways = sum(
        math.comb(total, x) * math.comb(others, k - x) for x in range(first.hits, min(k, total) + 1)
    ) / math.comb(n, k)
    assert fisher_greater(first, second) == pytest.approx(ways, rel=1e-9)


def histogram(**counts):
    """`histogram(b100=5, b500=20, inf=20)`: bounds in milliseconds, cumulative."""
    return Histogram(
        tuple((math.inf if name == "inf" else int(name[1:]) / 1000, count) for name, count in counts.items())
    )


FAST = histogram(b100=900, b250=960, b500=990, b1000=1000, inf=1000)
SLOW = histogram(b100=100, b250=130, b500=150, b1000=190, inf=200)


@pytest.mark.parametrize(
    ("what", "canary", "stable", "outcome"),
    [
        ("nothing", AnswerCounts(), AnswerCounts(), Outcome.WAIT),
        ("a few good ones", AnswerCounts(20), AnswerCounts(400), Outcome.WAIT),
        ("many good ones", AnswerCounts(400), AnswerCounts(4000), Outcome.PASS),
        ("good ones, none to compare with", AnswerCounts(400), AnswerCounts(), Outcome.WAIT),
        ("every fifth fails", AnswerCounts(25, 5), AnswerCounts(475), Outcome.FAIL),
        ("both fail alike", AnswerCounts(500, 100), AnswerCounts(5000, 1000), Outcome.WAIT),
        ("one error of three", AnswerCounts(3, 1), AnswerCounts(50), Outcome.WAIT),
        ("worse, within the margin", AnswerCounts(100_000, 300), AnswerCounts(100_000, 100), Outcome.PASS),
        ("slow", AnswerCounts(200, ttft=SLOW), AnswerCounts(1000, ttft=FAST), Outcome.FAIL),
        ("as fast", AnswerCounts(1000, ttft=FAST), AnswerCounts(1000, ttft=FAST), Outcome.PASS),
        (
            "refuses",
            AnswerCounts(200, refusals=Proportion(60, 200)),
            AnswerCounts(900, refusals=Proportion(9, 900)),
            Outcome.FAIL,
        ),
        (
            "much shorter answers",
            AnswerCounts(200, tokens=Histogram(((32, 190), (256, 200), (math.inf, 200)))),
            AnswerCounts(900, tokens=Histogram(((32, 100), (256, 900), (math.inf, 900)))),
            Outcome.FAIL,
        ),
    ],
)
def test_a_look_fails_passes_or_waits(what, canary, stable, outcome):
    assert judge(Rollout(), canary, stable).outcome is outcome, what


def test_answers_that_are_cut_short_fail():
    short = AnswerCounts(200, tokens=Histogram(((16, 190), (32, 195), (256, 200), (math.inf, 200))))
    usual = AnswerCounts(900, tokens=Histogram(((16, 100), (32, 500), (256, 900), (math.inf, 900))))
    verdict = judge(Rollout(), short, usual)
    assert verdict.outcome is Outcome.FAIL
    assert "answers with more than 32 tokens" in verdict.detail


def test_the_gaps_of_one_answer_count_as_one_observation():
    """Ten answers with a thousand slow gaps each say no more than ten slow answers."""
    gaps = histogram(b20=9000, b50=9000, inf=10_000)
    usual = histogram(b20=99_000, b50=100_000, inf=100_000)
    assert judge(Rollout(), AnswerCounts(10, itl=gaps), AnswerCounts(100, itl=usual)).outcome is Outcome.WAIT


def test_later_looks_need_more_to_convict():
    few = AnswerCounts(16, 3), AnswerCounts(189)
    assert judge(Rollout(), *few, looks=1).outcome is Outcome.FAIL
    assert judge(Rollout(), *few, looks=50).outcome is Outcome.WAIT


def reading(answers, errors=0, *, at=0, stable=1000):
    counts = {"r2": AnswerCounts(answers, errors), "r1": AnswerCounts(stable)}
    return AnswerReading(WINDOW, NOW + timedelta(seconds=at), counts)


def test_looks_are_counted_by_new_answers_and_passes_by_grown_samples():
    state, spec = AnalysisState(), Rollout()
    for at, answers in enumerate((10, 10, 60, 70, 80)):
        state = canary_analysis.look(state, spec, WINDOW, reading(answers, at=at), may_pass=True)
    assert (state.looks, state.passes, state.pass_seen) == (4, 2, 80)
    again = canary_analysis.look(state, spec, WINDOW, reading(80, at=4), may_pass=True)
    assert again == state
    other = RolloutWindow(WINDOW.service, "r1", "r2", 25, NOW)
    assert canary_analysis.look(state, spec, other, None, may_pass=True) == AnalysisState(other)


@pytest.mark.parametrize("seed", range(20))
def test_a_revision_as_good_is_hardly_ever_rolled_back_however_often_it_is_looked_at(seed):
    """Both fail one request in twenty; 40 looks."""
    random, state, spec = Random(seed), AnalysisState(), Rollout()
    canary = stable = errors = others = 0
    for at in range(40):
        errors += sum(random.random() < 0.05 for _ in range(20))
        others += sum(random.random() < 0.05 for _ in range(60))
        canary, stable = canary + 20, stable + 60
        counts = {"r2": AnswerCounts(canary, errors), "r1": AnswerCounts(stable, others)}
        found = AnswerReading(WINDOW, NOW + timedelta(seconds=at), counts)
        state = canary_analysis.look(state, spec, WINDOW, found, may_pass=False)
        # At most 5 % of steps may end so: with these seeds none does.
        assert state.verdict.outcome is not Outcome.FAIL, (canary, errors, stable, others)
