"""examples/controller: the base with what people change, as `kubectl apply -k` sends it."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes.client
import pytest
import yaml

from tests.pilotlight.kubernetes_schemas import faults, known
from warmpool.adapters.price_file import read_prices

EXAMPLE = Path(__file__).parents[2] / "examples" / "controller"


@pytest.fixture(scope="module")
def rendered() -> list[dict[str, Any]]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed; CI installs it")
    done = subprocess.run(["kubectl", "kustomize", str(EXAMPLE)], capture_output=True, text=True, check=True)
    return list(yaml.safe_load_all(done.stdout))


def one(rendered: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = [obj for obj in rendered if obj["kind"] == kind]
    return found


def test_every_object_passes_the_schemas_of_a_real_api_server(rendered):
    checked = [obj for obj in rendered if known(obj)]
    assert {obj["kind"] for obj in rendered} - {obj["kind"] for obj in checked} == {
        "CustomResourceDefinition",
        "PodDisruptionBudget",
        "PriorityClass",
    }
    assert [fault for obj in checked for fault in faults(obj)] == []


def test_the_controller_has_a_priority_and_does_not_block_a_drain(rendered):
    priority, budget = one(rendered, "PriorityClass"), one(rendered, "PodDisruptionBudget")
    pod = one(rendered, "Deployment")["spec"]["template"]
    base = yaml.safe_load((EXAMPLE.parents[1] / "knative/manifests/controller/deployment.yaml").read_text())
    assert base["spec"]["template"]["spec"]["priorityClassName"] == priority["metadata"]["name"]
    # Kubernetes keeps a thousand millions and more for itself.
    assert 0 < priority["value"] <= 1_000_000_000
    assert budget["spec"]["maxUnavailable"] == 1
    selected = budget["spec"]["selector"]["matchLabels"].items()
    assert selected <= pod["metadata"]["labels"].items()
    for obj, model in (
        (priority, kubernetes.client.V1PriorityClass),
        (budget["spec"], kubernetes.client.V1PodDisruptionBudgetSpec),
    ):
        assert set(obj) <= set(model.attribute_map.values())


def test_what_the_overlay_says_is_what_the_controller_gets(rendered):
    pod = one(rendered, "Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    job = one(rendered, "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == job["image"] == "registry.example.com/pilotlight-controller:0.1.0"
    assert "--namespace=agents" in container["args"]
    assert container["resources"]["limits"] == {"memory": "2Gi"}
    history = next(volume for volume in pod["volumes"] if volume["name"] == "history")
    claim = one(rendered, "PersistentVolumeClaim")["metadata"]["name"]
    assert history == {"name": "history", "persistentVolumeClaim": {"claimName": claim}}


def test_prices_and_prometheus_are_those_of_the_overlay(rendered, tmp_path):
    maps = {obj["metadata"]["name"]: obj["data"] for obj in rendered if obj["kind"] == "ConfigMap"}
    pod = one(rendered, "Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    variables = {entry["name"]: entry["valueFrom"]["configMapKeyRef"] for entry in container["env"]}
    url = variables["PILOTLIGHT_PROMETHEUS"]
    assert maps[url["name"]][url["key"]] == "http://prometheus-operated.monitoring.svc:9090"
    prices = next(volume["configMap"]["name"] for volume in pod["volumes"] if volume["name"] == "prices")
    written = tmp_path / "prices.yaml"
    written.write_text(maps[prices]["prices.yaml"])
    assert read_prices(written).currency == "EUR"
