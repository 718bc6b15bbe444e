"""docs/warm-pools.md shows what really happens."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from knative.client.resources import WARM_POOL
from tests.warmpool.test_budget import month
from warmpool.adapters.metrics import MetricsCollector
from warmpool.domain.pool import WarmPoolSpec
from warmpool.explanation import explanation

GUIDE = (Path(__file__).parents[2] / "docs" / "warm-pools.md").read_text()
EXAMPLE = yaml.safe_load(re.search(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)[1])


def test_the_worked_example_costs_what_the_guide_says_and_stays_below_its_budget():
    account, decisions = month(WarmPoolSpec.parse(EXAMPLE["spec"]))
    assert float(account.spent) == pytest.approx(371.82, abs=0.01)
    assert not any(decision.budget_adjustment for _, decision in decisions)


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


async def test_every_metric_of_the_guide_exists(knative, controller):
    knative.service("generate")
    await knative.pool(limits={"budget": {"amount": 400}})
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
