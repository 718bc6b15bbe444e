"""Draw `docs/cold-starts.png` from a run of `cold_start.py --json`.

    python benchmarks/cold_start.py --json > run.json
    python benchmarks/draw_cold_start.py run.json docs/cold-starts.png

Needs matplotlib (extra `bench`).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")
from matplotlib import pyplot as plt

COLOURS = {
    "restore": "#8172b3",
    "import": "#4c72b0",
    "weights": "#55a868",
    "device": "#8c8c8c",
    "init": "#dd8452",
    "warmup": "#c44e52",
    "rest": "#d9d9d9",
    "plain": "#9a9a9a",
}
ROWS = (
    ("standby", "standby_s"),
    ("restart", "restart_s"),
    ("cold", "cold_s"),
    ("cold_without_snapshot", "cold_without_snapshot_s"),
)
TITLES = {
    "standby": "request to a replica\nin standby",
    "restart": "engine killed,\nnext engine",
    "cold": "cold replica,\nfrom a snapshot",
    "cold_without_snapshot": "cold replica,\nimporting",
}


def draw(run: dict, target: Path) -> None:
    """Draw one bar for each kind of start, split into its phases."""
    figure, (whole, near) = plt.subplots(2, 1, figsize=(9, 7.2), gridspec_kw={"height_ratios": [2.5, 2]})
    names = ["vLLM's own server,\nfresh", *(TITLES[kind] for kind, _ in reversed(ROWS))]
    whole.barh(names[0], run["vllm_server_s"], color=COLOURS["plain"], height=0.6)
    whole.text(run["vllm_server_s"], 0, f" {run['vllm_server_s']:.1f} s", va="center")
    for axes, rows in ((whole, ROWS[::-1]), (near, ROWS[:3][::-1])):
        for kind, key in rows:
            _bar(axes, TITLES[kind], run["phases_s"][kind], run[key], run["vllm_server_s"])
        axes.spines[["top", "right"]].set_visible(False)
    whole.set_xlim(0, run["vllm_server_s"] * 1.15)
    near.set_xlim(0, run["cold_s"] * 1.35)
    near.set_xlabel("seconds to the first token")
    whole.set_title("Time to the first token: where it goes", loc="left")
    near.set_title("The three shortest, enlarged", loc="left", fontsize=10)
    labels = ["restore", "import", "weights", "init", "warmup", "rest"]
    handles = [plt.Rectangle((0, 0), 1, 1, color=COLOURS[label]) for label in labels]
    texts = ["restore", "import", "weights", "init", "warm-up", "the rest: processes, detection, the token"]
    figure.legend(handles, texts, loc="lower center", ncols=6, frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(target, dpi=130)


def _bar(axes: plt.Axes, name: str, phases: dict[str, float], total: float, base: float) -> None:
    left = 0.0
    # The weights are fetched beside the import or the restore; only what takes longer counts.
    code = phases.get("import", 0.0) + phases.get("restore", 0.0)
    beside = min(phases.get("weights", 0.0), code)
    shares = {**phases, "weights": phases.get("weights", 0.0) - beside}
    for phase in ("restore", "import", "device", "weights", "init", "warmup"):
        seconds = min(shares.get(phase, 0.0), max(0.0, total - left))
        axes.barh(name, seconds, left=left, color=COLOURS[phase], height=0.6)
        left += seconds
    axes.barh(name, max(0.0, total - left), left=left, color=COLOURS["rest"], height=0.6)
    axes.text(total, name, f" {total:.2f} s  ({base / total:.3g} times sooner)", va="center")


def main() -> None:
    """Read a run and draw it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path, help="what cold_start.py --json printed")
    parser.add_argument("target", type=Path, help="PNG to write")
    options = parser.parse_args()
    draw(json.loads(options.run.read_text()), options.target)


if __name__ == "__main__":
    main()
