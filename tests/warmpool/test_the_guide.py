"""docs/warm-pools.md shows what really happens."""

import asyncio
import os
import re
from asyncio.subprocess import PIPE, STDOUT
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer
import yaml

from knative.client.resources import WARM_POOL
from pilotlight import stack
from pilotlight.cli.pool import app as pool_app
from tests.warmpool.conftest import make_controller
from tests.warmpool.test_budget import month
from warmpool.adapters.metrics import MetricsCollector
from warmpool.controller.__main__ import app as controller_app
from warmpool.domain.pool import WarmPoolSpec
from warmpool.domain.signals import SignalReading
from warmpool.domain.timeline import timeline
from warmpool.explanation import explanation

FOLDER = Path(__file__).parents[2]
GUIDE = (FOLDER / "docs" / "warm-pools.md").read_text()
EXAMPLE, CALENDAR, SIGNALS = (
    yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
)


def test_the_worked_example_costs_what_the_guide_says_and_stays_below_its_budget():
    account, decisions = month(WarmPoolSpec.parse(EXAMPLE["spec"]))
    assert float(account.spent) == pytest.approx(371.82, abs=0.01)
    assert not any(decision.budget_adjustment for _, decision in decisions)


def test_the_schedule_of_the_guide_holds_what_its_table_says():
    pool = WarmPoolSpec.parse({"target": "generate", **CALENDAR})
    rows = re.findall(
        r"^\| ([A-Z][a-z]{2} \d+ [A-Z][a-z]{2} \d{4} \d\d:\d\d) \| (\d+) \|$", GUIDE, re.MULTILINE
    )
    assert len(rows) > 10
    for when, floor in rows:
        local = datetime.strptime(when, "%a %d %b %Y %H:%M").replace(tzinfo=pool.zone)
        assert f"{local:%a}" == when[:3]
        (segment,) = timeline(pool, timedelta(0), local, local + timedelta(minutes=1))
        assert segment.floor.replicas == int(floor), when


async def test_the_mistakes_of_the_guide_are_refused_and_warned_of_in_its_words(tmp_path):
    """`kubectl apply` prints what the API answers."""
    kind, section = "warmpool.pilotlight.dev", GUIDE.split("### Mistakes")[1].split("##")[0]
    refused, warned = re.search(r"Error from server.*", section)[0], re.search(r"Warning: .*", section)[0]
    config = stack.StackConfig(state_dir=tmp_path / "state", gateway_port=0, api_port=0)
    async with stack.running(config) as running:

        async def apply(**changes) -> str:
            pool = {**EXAMPLE, "spec": {**EXAMPLE["spec"], **changes}}
            (tmp_path / "pool.yaml").write_text(yaml.safe_dump(pool))
            command = [
                "kubectl",
                "--kubeconfig",
                str(running.platform.kubeconfig),
                "apply",
                "-f",
                "pool.yaml",
            ]
            process = await asyncio.create_subprocess_exec(
                *command,
                cwd=tmp_path,
                stdout=PIPE,
                stderr=STDOUT,
                env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
            )
            out, _ = await process.communicate()
            return out.decode()

        assert await apply(exceptions=[{"name": "bank", "holidays": {"country": "EN"}}]) == f"{refused}\n"
        assert await apply(timeZone="EST") == f"{warned}\n{kind}/generate-support created\n"
        off = await apply(windows=[{"name": False, "from": "08:00", "to": "19:00", "replicas": 1}])
        assert "spec.windows[0].name" in off
        assert "must be of type string" in off


def test_every_path_and_option_of_the_guide_exists():
    for path in re.findall(r"`?((?:knative|warmpool|tests)/[\w/.-]+)`?", GUIDE):
        assert (FOLDER / path).exists(), path
    options = {name for command in (controller_app, pool_app) for name in _options(command)}
    for option in set(re.findall(r"`?(--[a-z][a-z-]+)", GUIDE)):
        assert option in options | {"--kubeconfig", "--from-literal"}, option


def _options(app: typer.Typer) -> set[str]:
    command = typer.main.get_command(app)
    commands = getattr(command, "commands", {"": command}).values()
    return {name for each in commands for parameter in each.params for name in parameter.opts}


async def test_the_explanation_is_the_one_in_the_guide(knative, controller, cluster, clock):
    name = EXAMPLE["spec"]["target"]
    clock.at = datetime(2026, 12, 21, 8, 51, 36, tzinfo=UTC)
    knative.service(name)
    await cluster.create(WARM_POOL, EXAMPLE)
    knative.capacity = 0
    await controller.tick()
    knative.settle()
    await controller.tick()
    clock.on(timedelta(seconds=84))
    knative.capacity = 2
    knative.settle()
    await controller.tick()
    while clock.at < datetime(2026, 12, 21, 9, 0, tzinfo=UTC):
        clock.on(timedelta(seconds=42))
        await controller.tick()
    pool = await cluster.get(WARM_POOL, EXAMPLE["metadata"]["name"], "default")
    lines = explanation(pool, datetime(2026, 12, 21, 9, tzinfo=UTC))
    shown = re.search(r"pool explain generate-support\n(.*?)```", GUIDE, re.DOTALL)[1]
    assert "\n".join(lines) + "\n" == shown, "\n".join(lines)


async def test_the_api_takes_the_signals_of_the_guide(knative):
    made = await knative.pool(
        windows=[], signals=SIGNALS["spec"]["signals"], limits=SIGNALS["spec"]["limits"]
    )
    spec = WarmPoolSpec.parse(made["spec"])
    assert [signal.tolerance for signal in spec.signals] == [0.1, 0.15, 0.1]
    assert spec.signals[0].stabilization_window == timedelta(minutes=5)
    assert spec.signals[2].stabilization_window == timedelta(minutes=10)


class _Eight:
    """A source in which every signal is 8."""

    async def read(self, queries):
        return dict.fromkeys(queries, SignalReading(8.0))


async def test_every_metric_of_the_guide_exists(knative, cluster, clock):
    controller = make_controller(cluster, clock=clock, signals=_Eight())
    knative.service("generate")
    await knative.pool(limits={"budget": {"amount": 400}}, signals=SIGNALS["spec"]["signals"])
    for _ in range(3):
        await controller.tick()
        knative.settle()
    text = MetricsCollector(controller).render().decode()
    section = GUIDE.split("### Metrics")[1].split("##")[0]
    names = re.findall(r"`(\w+)`", section)
    for name in names:
        whole = name if name.startswith("pilotlight") else f"pilotlight_warmpool{name}"
        assert f"\n{whole}" in text or f" {whole} " in text, whole


def test_every_condition_reason_of_the_guide_is_one_the_controller_gives():
    source = "".join(
        path.read_text() for path in (Path(__file__).parents[2] / "warmpool" / "reconcile").glob("*.py")
    )
    table = GUIDE.split("### Status")[1].split("###")[0]
    words = re.findall(r"`([A-Z][a-z]+[A-Za-z]*)`", table)
    for word in words:
        assert f'"{word}"' in source or word == "Unknown", word
