"""examples/clusters: whole, strict, and with exactly the flags that they need."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from typer.main import get_command

from knative import feature_flags
from knative.client.resources import CONFIG_MAP, NAMESPACE
from pilotlight import cli, deploy, stack
from pilotlight.agent import Agent
from pilotlight.agent_reader import load_agent
from pilotlight.cli.weights_warm import app as warm_app
from pilotlight.compile import compile_agent, compile_for_cluster
from pilotlight.warm_weights.jobs import warm_job, warm_target
from tests.pilotlight.kubernetes_schemas import faults, known
from warmpool.adapters.price_file import packaged_prices

FOLDER = Path(__file__).parents[2] / "examples" / "clusters"
EXAMPLES = sorted(path.name for path in FOLDER.iterdir() if path.is_dir())
DEFAULTS = json.loads((Path(__file__).parent / "data" / "webhook_defaults.json").read_text())
"""What the admission webhook of Knative Serving after 1.23 (2026-08-21) added to the Services in a dry run."""


def documents(name: str, file: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / name / file).read_text()))


def agent(name: str) -> Agent:
    return load_agent(FOLDER / name / "agent.yaml")


def pod(obj: dict[str, Any]) -> dict[str, Any]:
    return obj["spec"]["template"]["spec"]


def test_there_are_four():
    assert EXAMPLES == ["aks", "eks", "gke", "k3s"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_object_passes_the_schemas_of_a_real_api_server(name):
    found = agent(name)
    rendered = [
        *compile_agent(found),
        *compile_for_cluster(found),
        warm_job(warm_target(found), node="gpu-1"),
    ]
    for obj in [*rendered, *documents(name, "cluster.yaml"), *documents(name, "knative.yaml")]:
        if obj["kind"] != "WarmPool":  # its schema is the project's own, and the platform checks it below
            assert faults(obj) == [], (obj["kind"], obj["metadata"]["name"])


def test_the_schemas_refuse_what_a_strict_server_refuses():
    (service, *_) = compile_agent(agent("eks"))
    pod(service)["nodeSelektor"] = {}
    pod(service)["containers"][0]["env"].append({"name": "A", "valeu": "b"})
    assert len(faults(service)) == 2
    (job,) = [obj for obj in documents("gke", "cluster.yaml") if obj["kind"] == "Job"]
    pod(job)["restartPolicy"] = "Sometimes"
    pod(job)["containers"][0]["resources"]["limits"] = 3
    assert len(faults(job)) == 2
    assert not known({"apiVersion": "v1", "kind": "Pot"})


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_the_agent_names_is_in_the_manifests(name):
    found = agent(name)
    there = {(obj["kind"], obj["metadata"]["name"]) for obj in documents(name, "cluster.yaml")}
    (service,) = [obj for obj in compile_agent(found) if obj["kind"] == "Service"]
    spec = pod(service)
    named = {("Namespace", found.metadata.namespace), ("PersistentVolumeClaim", warm_target(found).claim)}
    if "serviceAccountName" in spec:
        named.add(("ServiceAccount", spec["serviceAccountName"]))
    for volume in spec["volumes"]:
        if "configMap" in volume:
            named.add(("ConfigMap", volume["configMap"]["name"]))
    for entry in spec["containers"][0].get("envFrom", ()):
        named.add(("Secret", entry["secretRef"]["name"]))
    assert named <= there


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_gpu_has_a_price_and_the_claim_is_for_several_nodes(name):
    (service,) = [obj for obj in compile_agent(agent(name)) if obj["kind"] == "Service"]
    gpu = service["spec"]["template"]["metadata"]["annotations"]["pilotlight.dev/gpu"]
    assert gpu in packaged_prices().gpus
    (claim,) = [obj for obj in documents(name, "cluster.yaml") if obj["kind"] == "PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_flags_are_those_that_doctor_names(name):
    (config_map,) = documents(name, "knative.yaml")
    (service,) = [obj for obj in compile_agent(agent(name)) if obj["kind"] == "Service"]
    assert {f"kubernetes.{flag}" for flag in feature_flags.missing(pod(service), {})} == set(
        config_map["data"]
    )


async def features(cluster: Any, flags: dict[str, str]) -> None:
    found = await cluster.get(CONFIG_MAP, "config-features", "knative-serving")
    kept = {
        key: value for key, value in (found.get("data") or {}).items() if not key.startswith("kubernetes.")
    }
    await cluster.replace(CONFIG_MAP, {**found, "data": kept | flags})


def added(before: Any, after: Any, path: str = "") -> dict[str, Any]:
    """Values of `after` that `before` has not, by path."""
    if isinstance(before, dict) and isinstance(after, dict):
        inner = [(f"{path}.{key}".lstrip("."), before.get(key), value) for key, value in after.items()]
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        inner = [(f"{path}.{at}", *pair) for at, pair in enumerate(zip(before, after, strict=True))]
    else:
        return {} if before == after else {path: after}
    return {key: value for place, old, new in inner for key, value in added(old, new, place).items()}


async def test_each_is_accepted_with_its_flags_only_and_filled_in_as_knative_does(tmp_path):
    config = stack.StackConfig(state_dir=tmp_path / "state", gateway_port=0, api_port=0)
    async with stack.running(config) as running:
        cluster = running.cluster
        await cluster.create(NAMESPACE, {"metadata": {"name": "agents"}})
        for name in EXAMPLES:
            (config_map,) = documents(name, "knative.yaml")
            flags = config_map["data"]
            objects = compile_agent(agent(name))
            await features(cluster, flags)
            await deploy.check(cluster, objects)
            after = await cluster.apply(deploy.resource_of(objects[0]), objects[0], dry_run=True)
            assert added(objects[0]["spec"], after["spec"]) == DEFAULTS[name], name
            for missing in flags:
                await features(cluster, {flag: value for flag, value in flags.items() if flag != missing})
                with pytest.raises(deploy.DeployError, match=f"needs the feature flags .*{missing}"):
                    await deploy.check(cluster, objects)


def test_the_reduced_schemas_are_json_schemas():
    document = json.loads((Path(__file__).parent / "data" / "kubernetes_schemas.json").read_text())
    jsonschema.Draft202012Validator.check_schema(document)


WALK = (Path(__file__).parents[2] / "docs" / "clusters.md").read_text().split("## From an empty cluster")[1]


def shown_after(command: str) -> list[str]:
    """The lines that the guide shows after a command."""
    after = WALK.split(f"$ {command}")[1].splitlines()[1:]
    lines = []
    for line in after:
        if line.strip().startswith(("$", "```")):
            break
        lines.append(line.strip())
    return lines


def test_the_guide_applies_what_the_example_has():
    created = [
        f"{obj['kind'].lower()}.{obj['apiVersion'].partition('/')[0]}/{obj['metadata']['name']} created"
        if "/" in obj["apiVersion"]
        else f"{obj['kind'].lower()}/{obj['metadata']['name']} created"
        for obj in documents("eks", "cluster.yaml")
    ]
    assert shown_after("kubectl apply -f examples/clusters/eks/cluster.yaml") == created
    objects = [*compile_agent(agent("eks")), *compile_for_cluster(agent("eks"))]
    deployed = [f"{obj['kind'].lower()}/{obj['metadata']['name']} created" for obj in objects]
    assert shown_after("pilotlight deploy -f examples/clusters/eks/agent.yaml") == deployed


def test_the_guide_names_the_flags_of_the_example():
    (config_map,) = documents("eks", "knative.yaml")
    error, fix = shown_after("pilotlight doctor -f examples/clusters/eks/agent.yaml")
    assert error.startswith("error    flags: not enabled in config-features:")
    assert json.loads(fix.split("-p '")[1].rstrip("'"))["data"] == config_map["data"]


def test_the_guides_commands_and_options_exist():
    commands = [
        line.strip().removeprefix("$ ") for line in WALK.splitlines() if line.strip().startswith("$ pil")
    ]
    commands += re.findall(r"`(pilotlight [^`]+)`", WALK.split("## Remove an agent")[0])
    assert len(commands) >= 6
    for command in commands:
        words = command.partition(" | ")[0].split()[1:]
        found = cli.load(words[0])
        name = words[1] if words[1:] and not words[1].startswith("-") else ""
        found = getattr(found, "commands", {}).get(name, found)
        known_options = {
            option for parameter in found.params for option in parameter.opts + parameter.secondary_opts
        }
        if words[:2] == ["weights", "warm"]:
            known_options |= {
                option for p in get_command(warm_app).params for option in p.opts + p.secondary_opts
            }
        assert {word for word in words if word.startswith("-")} <= known_options, command
