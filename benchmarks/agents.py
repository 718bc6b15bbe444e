"""What durable runs of agents cost, and whether they survive.

    python benchmarks/agents.py            progress, and a table
    python benchmarks/agents.py --json     one JSON object; progress goes to standard error

`durable_vs_plain_p50`: median of a request of three stages as a durable run that its client waits for
(`Prefer: respond-async, wait=60`), over the same request without. The stages do next to nothing, so all that
recording costs is seen; SQLite.

`steps_per_s_vs_dbos`: recorded no-op steps a second over those of bare DBOS on an SQLite file of its own,
one run at a time or sixteen, whichever ratio is less. DBOS has this project's settings of SQLite here;
`steps` has it as it comes, too.

`wake_ahead_tools`: seconds to the first answer of a tool-using agent, model and tool at zero, the tool woken
once the model has named it (the default), over the tool woken by its call. Both start in some seconds, and
the model writes the arguments for some; `wake` says how many. Local platform.

`lost`, `twice`: of `--kills` runs of five steps that were under way when their orchestrate replica, their
tool or their database (Postgres) was killed (SIGKILL) at a random moment: runs that did not end with the
right answer, and steps whose effect the tool counted more than once.

`waiting_runs`: runs that wait for a timer at zero replicas of the local platform: seconds until all were
resumed, and bytes of the database meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Started by its path, Python looks for modules beside it first, where `weights` is a benchmark.
sys.path[0] = str(Path(__file__).parents[1])

from benchmarks.agents_killed import killed  # noqa: E402 - see above
from benchmarks.agents_speed import durable_vs_plain, steps_vs_dbos  # noqa: E402
from benchmarks.agents_waiting import waiting  # noqa: E402
from benchmarks.agents_wake import wake_ahead  # noqa: E402
from benchmarks.arguments import at_least  # noqa: E402

KEYS = {
    "durable_vs_plain_p50": "at most 1.3",
    "steps_per_s_vs_dbos": "at least 0.7",
    "wake_ahead_tools": "at most 0.7",
    "lost": "0",
    "twice": "0",
}
ARMS = ("speed", "steps", "wake", "kills", "waiting")


async def measure(options: argparse.Namespace, folder: Path, tell: Callable[[str], None]) -> dict[str, Any]:
    """All figures of the arms that were asked for."""
    found: dict[str, Any] = {}
    if "speed" in options.arms:
        rounds = []
        for number in range(2):
            rounds.append(await durable_vs_plain(folder / f"speed{number}", options.requests))
            tell(f"durable over plain: {rounds[-1]}")
        at_once = await durable_vs_plain(folder / "speed16", options.requests, at_once=16)
        tell(f"durable over plain, 16 at once: {at_once}")
        found["durable_vs_plain_p50"] = round(sum(entry["ratio"] for entry in rounds) / len(rounds), 3)
        found["durable_vs_plain"] = {"one_at_a_time": rounds, "at_once_16": at_once}
    if "steps" in options.arms:
        steps = await asyncio.to_thread(steps_vs_dbos, folder / "steps", options.runs, tell)
        found["steps_per_s_vs_dbos"] = steps.pop("ratio", None)
        found["steps"] = steps
    if "wake" in options.arms:
        woken = await wake_ahead(options.rounds, tell)
        found["wake_ahead_tools"] = woken.pop("ratio")
        found["wake"] = woken
    if "kills" in options.arms:
        survived = await killed(folder / "kills", options.kills, options.seed, tell)
        found |= {"lost": survived.pop("lost"), "twice": survived.pop("twice"), "kills": survived}
    if "waiting" in options.arms:
        found["waiting_runs"] = await waiting(options.waiting, tell)
    return found


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--arms", type=lambda text: text.split(","), default=list(ARMS), help=",".join(ARMS) + " (all)"
    )
    parser.add_argument("--requests", type=at_least(25), default=500, help="of each kind")
    parser.add_argument("--runs", type=at_least(10), default=200, help="of five no-op steps, each round")
    parser.add_argument("--rounds", type=at_least(1), default=3, help="of starts from zero")
    parser.add_argument("--kills", type=at_least(1), default=100, help="runs that were under way at a kill")
    parser.add_argument("--waiting", type=at_least(1), default=1000, help="runs that wait at zero replicas")
    parser.add_argument("--seed", type=at_least(0), default=1, help="of the moments of the kills")
    options = parser.parse_args()
    if unknown := set(options.arms) - set(ARMS):
        parser.error(f"--arms: {', '.join(sorted(unknown))}, must be of {', '.join(ARMS)}")
    # As Ctrl-C: what was started is ended.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    stream = sys.stderr if options.json else sys.stdout

    def tell(line: str) -> None:
        print(line, file=stream, flush=True)

    with tempfile.TemporaryDirectory(prefix="agents-") as folder:
        found = asyncio.run(measure(options, Path(folder), tell))
    if options.json:
        print(json.dumps(found, indent=2))
        return
    print()
    for key, value in found.items():
        print(f"{key:22} {value}   {KEYS.get(key, '')}".rstrip())


if __name__ == "__main__":
    main()
