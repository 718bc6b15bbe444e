"""The series that the alert rules compare are those of a controller's metrics page."""

import re
from pathlib import Path

import yaml

import knative as package
from knative.autoscaling.annotations import MAX_SCALE
from tests.warmpool.conftest import make_controller
from warmpool.adapters.metrics import MetricsCollector

RULES = Path(package.__file__).parent / "manifests" / "controller" / "monitoring" / "rules.yaml"


def expressions() -> list[str]:
    groups = yaml.safe_load(RULES.read_text())["spec"]["groups"]
    return [rule["expr"] for group in groups for rule in group["rules"]]


async def test_a_floor_above_max_scale_is_not_missing(cluster, clock, knative):
    knative.service("generate", annotations={MAX_SCALE: "2"})
    window = {"name": "always", "days": ["Mon-Sun"], "from": "00:00", "to": "24:00", "replicas": 5}
    signal = {"name": "queue", "query": "sum(jobs)", "target": {"averageValue": 5}}
    await knative.pool(windows=[window], signals=[signal], rollout={})
    controller = make_controller(cluster, clock=clock)
    for _ in range(3):
        await controller.tick()
        knative.settle()
    page = MetricsCollector(controller).render().decode()
    values = dict(line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
    labels = '{namespace="default",pool="pool",target="generate"}'
    found = {name: values[f"pilotlight_warmpool_{name}{labels}"] for name in ("floor", "requested", "ready")}
    assert found == {"floor": "5.0", "requested": "2.0", "ready": "2.0"}
    used = {name for expression in expressions() for name in re.findall(r"pilotlight_\w+", expression)}
    assert {name for name in used if not re.search(rf"^{name}(?:{{| )", page, re.MULTILINE)} == set()
