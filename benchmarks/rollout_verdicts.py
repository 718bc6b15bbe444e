"""How often the analysis of a rollout's step is wrong, and how many answers it takes to be right.

    python benchmarks/rollout_verdicts.py [--json]

Simulated answers, the controller's own analysis with the default settings: a share of 5 %, 25 answers of the
new Revision for each of at most 40 looks, of which it may pass from the fifth on. Runs are seeded.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

# Started by its path, Python looks for modules beside it first.
sys.path[0] = str(Path(__file__).parents[1])

from benchmarks.arguments import at_least  # noqa: E402 - see above
from warmpool.domain.answers import AnswerCounts, AnswerReading, RolloutWindow  # noqa: E402
from warmpool.domain.rollout import Rollout  # noqa: E402
from warmpool.reconcile.canary_analysis import AnalysisState, Outcome, look  # noqa: E402

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
WINDOW = RolloutWindow(("default", "s"), "old", "new", 5, BEGIN)
CASES = ((0.0, 0.0), (0.01, 0.01), (0.03, 0.01), (0.05, 0.01), (0.1, 0.0), (0.2, 0.0))
"""Error rates of the new and of the running Revision."""
PER_LOOK = 25
LOOKS = 40
FIRST_PASS = 4


def step(new: float, old: float, seed: int) -> tuple[Outcome, int]:
    """The outcome of one step, and the new Revision's answers until then."""
    source, state, spec = random.Random(seed), AnalysisState(), Rollout()
    answers = errors = others = other_errors = 0
    for number in range(LOOKS):
        more = PER_LOOK * (100 - WINDOW.percent) // WINDOW.percent
        answers, others = answers + PER_LOOK, others + more
        errors += sum(source.random() < new for _ in range(PER_LOOK))
        other_errors += sum(source.random() < old for _ in range(more))
        counts = {"new": AnswerCounts(answers, errors), "old": AnswerCounts(others, other_errors)}
        reading = AnswerReading(WINDOW, BEGIN + timedelta(seconds=number + 1), counts)
        state = look(state, spec, WINDOW, reading, may_pass=number >= FIRST_PASS)
        if state.verdict.outcome is not Outcome.WAIT:
            break
    return state.verdict.outcome, answers


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--steps", type=at_least(10), default=1000, help="simulated for each case")
    options = parser.parse_args()
    found = {}
    for new, old in CASES:
        ended = [step(new, old, seed) for seed in range(options.steps)]
        failed = [answers for outcome, answers in ended if outcome is Outcome.FAIL]
        found[f"{new:.0%} against {old:.0%}"] = {
            **{name.value: sum(outcome is name for outcome, _ in ended) / options.steps for name in Outcome},
            "answers_to_fail": median(failed) if failed else None,
        }
    if options.json:
        print(json.dumps({"steps": options.steps, "cases": found}, indent=2))
        return
    for case, entry in found.items():
        print(f"{case:20} {entry}")


if __name__ == "__main__":
    main()
