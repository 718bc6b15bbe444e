"""Keys from the command line to a refused request: an agent on the local platform, and what a cluster gets."""

import json
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from pilotlight.agent import AgentFileError
from pilotlight.agent_reader import load_agent
from pilotlight.compile import compile_agent, compile_for_cluster
from tests.pilotlight.conftest import Cli

CHAIN = [
    {"name": "chain", "kind": "orchestrate"},
    {"name": "clean", "kind": "postprocess"},
]


def document(stages: list[dict[str, Any]] | None = None, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "pilotlight.dev/v1alpha1",
        "kind": "Agent",
        "metadata": {"name": "demo"},
        "spec": {"stages": stages or CHAIN, **spec},
    }


def written(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / "agent.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def compiled(folder: Path, content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Environment and pod spec of each stage."""
    found = {}
    for obj in compile_agent(load_agent(written(folder, content))):
        pod = obj["spec"]["template"]["spec"]
        env = {entry["name"]: entry["value"] for entry in pod["containers"][0].get("env", ())}
        found[obj["metadata"]["name"].removesuffix("-demo")] = {"env": env, "pod": pod, "object": obj}
    return found


def test_keys_are_a_secret_that_is_mounted_and_need_not_be_there_yet(tmp_path):
    stages = compiled(tmp_path, document(auth="keys"))
    for stage in stages.values():
        assert stage["env"]["PILOTLIGHT_AUTH"] == "keys"
        volumes = {volume["name"]: volume["secret"] for volume in stage["pod"]["volumes"]}
        assert volumes == {
            "pilotlight-keys": {"secretName": "pilotlight-keys", "optional": True},
            "pilotlight-stage-token": {"secretName": "demo-stage-token", "optional": True},
        }
        mounts = {mount["name"]: mount for mount in stage["pod"]["containers"][0]["volumeMounts"]}
        assert mounts["pilotlight-keys"]["mountPath"] == stage["env"]["PILOTLIGHT_KEYS_DIR"]
        assert mounts["pilotlight-stage-token"]["mountPath"] == stage["env"]["PILOTLIGHT_STAGE_TOKEN_DIR"]
        assert all(mount["readOnly"] for mount in mounts.values())


def test_none_opens_the_entry_and_leaves_inner_stages_to_the_agents_own(tmp_path):
    stages = compiled(tmp_path, document(auth="none"))
    assert {name: stage["env"]["PILOTLIGHT_AUTH"] for name, stage in stages.items()} == {
        "chain": "none",
        "clean": "stages",
    }
    opened = [{**CHAIN[0]}, {**CHAIN[1], "public": True}]
    assert compiled(tmp_path, document(opened, auth="none"))["clean"]["env"]["PILOTLIGHT_AUTH"] == "none"


def test_tokens_of_an_issuer(tmp_path):
    jwt = {"issuer": "https://login.example", "audience": "agents", "requestsPerMinute": 60}
    stage = compiled(tmp_path, document(auth={"type": "jwt", "jwt": jwt}))["chain"]
    assert json.loads(stage["env"]["PILOTLIGHT_JWT"]) == jwt


def test_without_auth_nothing_is_mounted_so_that_one_machine_needs_one_command(tmp_path):
    for stage in compiled(tmp_path, document()).values():
        assert "PILOTLIGHT_AUTH" not in stage["env"]
        assert "volumes" not in stage["pod"]


def test_origins_are_for_the_stage_and_for_the_activator(tmp_path):
    content = document(allowedOrigins=["https://app.example", "https://b.example/"], progressSeconds=0)
    stage = compiled(tmp_path, content)["chain"]
    origins = "https://app.example,https://b.example"
    assert stage["env"]["PILOTLIGHT_ALLOWED_ORIGINS"] == origins
    annotations = stage["object"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["pilotlight.dev/allowed-origins"] == origins
    assert stage["env"]["PILOTLIGHT_PROGRESS_SECONDS"] == "0"


def test_a_replica_that_is_ready_at_its_port_has_no_probe_of_its_own(tmp_path):
    stages = [{**CHAIN[0]}, {**CHAIN[1], "readiness": "port", "scaling": {"containerConcurrency": 8}}]
    found = compiled(tmp_path, document(stages))
    assert "readinessProbe" not in found["clean"]["pod"]["containers"][0]
    assert "readinessProbe" in found["chain"]["pod"]["containers"][0]


def test_a_cluster_lets_in_the_activator_the_ingress_and_observers_alone(tmp_path):
    agent = load_agent(written(tmp_path, document(auth="keys", networkPolicy={"ingressNamespaces": ["gw"]})))
    (policy,) = compile_for_cluster(agent)
    serving, observers = policy["spec"]["ingress"]
    assert policy["spec"]["podSelector"] == {"matchLabels": {"pilotlight.dev/agent": "demo"}}
    assert serving["from"][0]["namespaceSelector"]["matchExpressions"][0]["values"] == ["gw"]
    assert 8080 not in [port["port"] for port in serving["ports"]]
    assert 8080 in [port["port"] for port in observers["ports"]]
    off = load_agent(written(tmp_path, document(auth="keys", networkPolicy={"enabled": False})))
    assert compile_for_cluster(off) == []


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"auth": "open"}, "spec.auth.type"),
        ({"auth": {"type": "jwt"}}, "jwt is required with type jwt"),
        ({"auth": {"type": "none", "secret": "mine"}}, "secret must be left out with type none"),
        ({"auth": {"type": "jwt", "jwt": {"issuer": "login", "audience": "a"}}}, "must be a URL"),
        ({"allowedOrigins": ["app.example"]}, "must be an origin such as https://app.example"),
        ({"stages": [{**CHAIN[0]}, {**CHAIN[1], "readiness": "port"}]}, "scaling.containerConcurrency"),
    ],
)
def test_a_bad_setting_is_refused_with_its_line(tmp_path, spec, said):
    with pytest.raises(AgentFileError, match=said) as refused:
        load_agent(written(tmp_path, document() | {"spec": document()["spec"] | spec}))
    assert "agent.yaml:" in str(refused.value)


def call(url: str, **headers: str) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(
        url, b'{"input": "hello"}', {"Content-Type": "application/json", **headers}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_a_key_opens_an_agent_until_it_is_revoked_and_strangers_never_reach_its_inner_stages(
    cli: Cli, tmp_path
):
    file = written(tmp_path, document(auth="keys"))
    up = cli.start("up", "--port", "0", "--api-port", "0", "--state", str(cli.state), "-f", str(file))
    up.until(lambda text: "demo answers at" in text)
    gateway = json.loads((cli.state / "up.json").read_text())["gateway"]
    entry, inner = (f"{gateway}/default/{name}-demo/invoke" for name in ("chain", "clean"))

    def key(*args: str) -> str:
        done = cli.run("key", *args, "--kubeconfig", str(cli.state / "kubeconfig"))
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert key("ls") == "no keys in namespace default"
    text = key("create", "ci", "--agent", "demo", "--team", "web", "--rate", "100", "--expires", "1d")
    assert text.startswith("plk_")
    assert text not in key("ls", "--json")
    assert "100 requests/min" in key("ls")

    def until_status(expected: int) -> dict[str, Any]:
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            status, body = call(entry, Authorization=f"Bearer {text}")
            if status == expected:
                return body
            time.sleep(0.05)
        raise AssertionError(body)

    assert until_status(200)["output"] == "hello", "the entry calls the inner stage with the agent's token"
    assert call(entry)[0] == 401
    assert call(inner)[0] == 401
    assert call(inner, **{"X-Pilotlight-Stage-Token": "x" * 43})[0] == 401
    again = cli.run("key", "create", "ci", "--kubeconfig", str(cli.state / "kubeconfig"))
    assert (again.returncode, "exists" in again.stderr) == (1, True)

    assert "new token" in key("rotate", "demo")
    assert until_status(200)
    soon = cli.run("key", "rotate", "demo", "--kubeconfig", str(cli.state / "kubeconfig"))
    assert (soon.returncode, "--force" in soon.stderr) == (1, True)

    asked = cli.run("invoke", "chain-demo", "hi", "--state", str(cli.state), "--key", text)
    assert (asked.returncode, asked.stdout.strip()) == (0, "hi")
    spent = cli.run(
        "cost",
        "--by",
        "team",
        "--json",
        "--state",
        str(cli.state),
        "--kubeconfig",
        str(cli.state / "kubeconfig"),
    )
    (line,) = [line for line in json.loads(spent.stdout) if line["name"] == "web"]
    assert line["requests"] >= 3, "at the entry, and on its behalf at the inner stage"
    key("revoke", "ci")
    assert "revoked" in json.dumps(until_status(401))
    assert up.process.poll() is None
