"""The worked example of docs/gpu-sharing.md: its sums are the controller's, its agent files compile."""

import re
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
import yaml

from pilotlight.agent_reader import load_agent
from pilotlight.compile import compile_agent
from tests.warmpool.test_budget import month
from warmpool.domain.cost import PriceList
from warmpool.domain.pool import WarmPoolSpec
from warmpool.domain.timeline import timeline
from warmpool.reconcile.parsing import parse_service

GUIDE = (Path(__file__).parents[2] / "docs" / "gpu-sharing.md").read_text()
(PRICES,) = (
    PriceList.parse(yaml.safe_load(block)) for block in re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
)
ROWS = {
    name: (cells[0], float(cells[-1].removesuffix(" USD")))
    for name, *cells in (
        [cell.strip(" *") for cell in line.strip("|").split("|")]
        for line in GUIDE.splitlines()
        if line.startswith("| **")
    )
}
DAY, MORNING, AFTERNOON = ("08:00", "19:00"), ("08:00", "13:20"), ("13:30", "19:00")
HELD = {
    "two of four": [(DAY, "hot")] * 2,
    "shifts": [(MORNING, "hot")] * 2 + [(AFTERNOON, "hot")] * 2,
    "turns": [(DAY, "standby")] * 4,
    "partitions": [(DAY, "hot")] * 4,
}
"""Window and warmth of each model's pool."""


def pool(window, warmth="hot"):
    opens, closes = window
    spec = {"name": "w", "days": ["Mon-Fri"], "from": opens, "to": closes, "replicas": 1, "warmth": warmth}
    limits = {"budget": {"amount": 100_000, "currency": "USD", "period": "month"}}
    return WarmPoolSpec.parse(
        {"target": "m", "timeZone": "Europe/Berlin", "windows": [spec], "limits": limits}
    )


def service(tmp_path, gpu):
    stage = {"name": "generate", "kind": "generate", "engine": {"type": "onnx"}, "gpu": gpu}
    spec = {"model": {"uri": "s3://models/m"}, "stages": [stage]}
    path = tmp_path / "agent.yaml"
    document = {
        "apiVersion": "pilotlight.dev/v1alpha1",
        "kind": "Agent",
        "metadata": {"name": "m"},
        "spec": spec,
    }
    path.write_text(yaml.safe_dump(document))
    (found,) = compile_agent(load_agent(path))
    return found


def test_every_arrangement_of_the_table_is_computed():
    assert ROWS.keys() == HELD.keys()


@pytest.mark.parametrize("name", HELD)
def test_the_month_costs_what_the_table_says(tmp_path, name):
    field, cost = ROWS[name]
    field = ROWS["two of four"][0] if field == "the same" else field
    view = parse_service(service(tmp_path, yaml.safe_load(field.strip("`"))["gpu"]))
    price = PRICES.replica(view.gpu, view.gpus)
    spent = sum((month(pool(*held), price)[0].spent for held in HELD[name]), Decimal(0))
    assert float(spent) == pytest.approx(cost, abs=0.01)


def test_one_gpu_in_turns_costs_half():
    quarter = PRICES.replica("nvidia-a100-80gb", 1)
    spent = month(pool(DAY, "standby"), quarter)[0].spent
    assert f"costs half: {float(spent):.2f} USD" in GUIDE


def test_the_floor_of_the_second_shift_rises_only_after_the_first_has_ended():
    lead = timedelta(minutes=10)
    begin = datetime.fromisoformat("2026-11-02T00:00:00+01:00")
    morning, afternoon = (
        next(
            part
            for part in timeline(pool(window), lead, begin, begin + timedelta(days=1))
            if part.floor.replicas
        )
        for window in (MORNING, AFTERNOON)
    )
    assert morning.end <= afternoon.start
