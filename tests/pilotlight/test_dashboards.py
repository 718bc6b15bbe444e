"""The Grafana dashboard's queries, evaluated by a real Prometheus that scrapes a running platform."""

import asyncio
import json
import re
import shutil
import subprocess
from pathlib import Path

import aiohttp
import pytest
import yaml

import knative
from knative.client.resources import POD, TRIGGER
from knative.labels import PORT_ANNOTATION, SERVICE_LABEL, STAGE_LABEL
from pilotlight import deploy, keys, stack
from pilotlight.access_settings import KEYS_SECRET
from pilotlight.agent_reader import load_agent
from pilotlight.compile import compile_agent
from pilotlight.stage_spec import Kind
from tests.pilotlight.openai_server import openai_server
from tests.triggers.moto_server import moto_server
from tests.warmpool.prometheus import needs_prometheus, prometheus
from triggers import operations
from triggers.spec.trigger import TriggerSpec
from warmpool.adapters.metric_names import NAMES

MONITORING = Path(knative.__file__).parent / "manifests" / "controller" / "monitoring"
DASHBOARD = MONITORING / "dashboards" / "pilotlight.json"
OF_OTHER_PLATFORMS = {"kn_revision_concurrency_stable"}
"""Metrics that only a cluster's Knative has; the controller reads demand from them under these names."""


def queries() -> dict[str, str]:
    """Each target's expression, with Grafana's variables as they are when a user looks at one hour of all."""
    found = {}
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"]
            for variable, value in (
                ("$namespace", ".*"),
                ("$__rate_interval", "1m"),
                ("$__range", "1h"),
            ):
                expression = expression.replace(variable, value)
            assert "$" not in expression, expression
            found[f"{panel['title']} {target['refId']}"] = expression
    return found


@pytest.fixture
def model_url():
    with openai_server() as url:
        yield url


def agent(model_url: str) -> dict:
    stage = {
        "name": "generate",
        "kind": "generate",
        "engine": {"type": "openai", "args": {"base-url": model_url, "model": "far"}},
        "resources": {"limits": {"nvidia.com/gpu": 1}},
        "annotations": {"pilotlight.dev/gpu": "nvidia-l4"},
        "scaling": {"max": 1},
        "warmPool": {
            "windows": [{"name": "always", "from": "00:00", "to": "24:00", "replicas": 1}],
            "limits": {"budget": {"amount": 400, "currency": "USD", "period": "month"}},
        },
    }
    trigger = {
        "name": "questions",
        "source": {"sqs": {"queue": "questions"}},
        "deadLetter": {"sqs": {"queue": "dead"}},
    }
    return {
        "apiVersion": "pilotlight.dev/v1alpha1",
        "kind": "Agent",
        "metadata": {"name": "demo"},
        "spec": {
            "model": {"name": "far"}, "auth": {"type": "keys"}, "stages": [stage], "triggers": [trigger],
        },
    }  # fmt: skip


@needs_prometheus
async def test_every_query_has_a_result_on_a_running_platform(tmp_path, model_url, unused_tcp_port):
    (tmp_path / "agent.yaml").write_text(yaml.safe_dump(agent(model_url)))
    with moto_server(tmp_path) as queue:
        config = stack.StackConfig(
            state_dir=tmp_path / "state", gateway_port=0, api_port=0, sqs=queue.endpoint,
            env=stack.inherited_env(),
        )  # fmt: skip
        async with stack.running(config) as running:
            await deploy.apply(running.cluster, compile_agent(load_agent(tmp_path / "agent.yaml")))
            async for _ in deploy.watch_until_ready(
                running.cluster, ["generate-demo"], "default", timeout_s=60
            ):
                pass
            [pod] = [
                pod
                for pod in await running.cluster.list(POD, "default")
                if (pod["metadata"].get("labels") or {}).get(SERVICE_LABEL) == "generate-demo"
            ]
            replica = f"127.0.0.1:{pod['metadata']['annotations'][PORT_ANNOTATION]}"
            api = f"{running.platform.api_url}/metrics"
            others = [
                # As a PodMonitor's target, which gets the namespace from its pod.
                {"job_name": "stages", "static_configs": [{"targets": [replica], "labels": {"namespace": "default"}}]}
            ]  # fmt: skip
            folder = tmp_path / "prometheus"
            async with prometheus(folder, unused_tcp_port, api, more=others) as url:
                [trigger] = await running.cluster.list(TRIGGER, "default")
                settings = operations.settings_for("default/questions-demo", queue.endpoint)
                body = json.dumps({"input": "x", "stream": True}).encode()
                await operations.send(TriggerSpec.parse(trigger["spec"]), settings, body, {}, None)
                key = await keys.create(running.cluster, KEYS_SECRET, "default", "ci", team="web")
                await call(f"{running.gateway_url}/default/generate-demo/invoke", key)
                missing = await without_result(url, queries() | {"docs": documented_query()})
    assert not missing


def documented_query() -> str:
    """The cost by key of docs/observability.md."""
    text = (Path(__file__).parents[2] / "docs" / "observability.md").read_text()
    [query] = re.findall(r"```promql\n(.*?)```", text, re.DOTALL)
    return query


async def call(url: str, key: str) -> None:
    """A request, as soon as the replica knows the key."""
    async with asyncio.timeout(60), aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as http:
        while True:
            async with http.post(url, json={"input": "x"}) as response:
                if response.status != 401:
                    assert response.status == 200, await response.text()
                    return
            await asyncio.sleep(0.2)


async def without_result(url: str, expressions: dict[str, str]) -> dict[str, str]:
    """The queries that have no result within half a minute; an error of one is an error."""
    left = {
        name: expression
        for name, expression in expressions.items()
        if not any(metric in expression for metric in OF_OTHER_PLATFORMS)
    }
    try:
        async with asyncio.timeout(30), aiohttp.ClientSession() as session:
            while left:
                for name, expression in list(left.items()):
                    async with session.get(f"{url}/api/v1/query", params={"query": expression}) as answer:
                        result = await answer.json()
                    assert result["status"] == "success", (expression, result)
                    if result["data"]["result"]:
                        del left[name]
                await asyncio.sleep(0.2)
    except TimeoutError:
        return left
    return left


def test_metrics_of_other_platforms_are_those_that_the_controller_reads():
    for metric in OF_OTHER_PLATFORMS:
        _, labels = NAMES[metric]
        [expression] = [text for text in queries().values() if metric in text]
        assert re.search(r"by \(([^)]*)\)", expression)[1].split(", ") == list(labels)


def test_the_dashboard_is_whole():
    dashboard = json.loads(DASHBOARD.read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        if panel["type"] == "row":
            continue
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for target in panel["targets"]:
            legend = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            grouped = {
                label
                for labels in re.findall(r"by \(([^)]*)\)", target["expr"])
                for label in labels.split(", ")
            }
            assert legend == grouped - {"le"}, target["expr"]


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed; CI installs it")
def test_the_manifests_carry_the_dashboard_to_grafanas_sidecar():
    done = subprocess.run(
        ["kubectl", "kustomize", str(MONITORING)], capture_output=True, text=True, check=True
    )
    objects = {one["kind"]: one for one in yaml.safe_load_all(done.stdout)}
    [selected] = objects["PodMonitor"]["spec"]["selector"]["matchExpressions"]
    # A tool in Python has metrics; that of a user's image may have some, as a container may not.
    observed = set(Kind) - {Kind.CONTAINER, Kind.AGENT}
    assert (selected["key"], set(selected["values"])) == (STAGE_LABEL, observed)
    found = objects["ConfigMap"]
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(found["data"]["pilotlight.json"])["uid"] == "pilotlight"
