"""`spec.mesh` and `render --mesh`: identities, mutual TLS and who may call whom, on a cluster with a mesh."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from pilotlight.agent_reader import load_agent
from pilotlight.cli import app
from pilotlight.compile import compile_agent, compile_for_cluster
from pilotlight.compile_dispatcher import dispatcher_objects
from pilotlight.doctor.needs import references, rights, stages
from pilotlight.warm_weights.jobs import warm_job, warm_target
from warmpool.adapters.pods import replica_url

SCHEMAS = json.loads((Path(__file__).parent / "data" / "mesh_schemas.json").read_text())["schemas"]
STAGES: list[dict[str, Any]] = [
    {"name": "generate", "kind": "generate"},
    {"name": "clean", "kind": "postprocess"},
    {"name": "chain", "kind": "orchestrate"},
]
TRIGGER = {
    "name": "questions",
    "source": {"nats": {"stream": "QUESTIONS", "url": "nats://nats.nats:4222"}},
}


def written(folder: Path, **spec: Any) -> Path:
    path = folder / "agent.yaml"
    document = {
        "apiVersion": "pilotlight.dev/v1alpha1",
        "kind": "Agent",
        "metadata": {"name": "demo", "namespace": "agents"},
        "spec": {
            "image": "example.com/functions:1",
            "auth": "keys",
            "model": {"uri": "s3://models/small"},
            "cache": {"persistentVolumeClaim": {"claimName": "weights"}},
            "stages": STAGES,
            **spec,
        },
    }
    path.write_text(yaml.safe_dump(document))
    return path


def objects(folder: Path, **spec: Any) -> dict[tuple[str, str], dict[str, Any]]:
    agent = load_agent(written(folder, **spec))
    found = [*compile_agent(agent), *compile_for_cluster(agent)]
    return {(obj["kind"], obj["metadata"]["name"]): obj for obj in found}


@pytest.mark.parametrize("mesh", ["istio", "istio-ambient", "linkerd"])
def test_the_objects_of_each_mesh_fit_its_published_schemas(tmp_path, mesh):
    path = written(tmp_path, mesh={"type": mesh, "callers": ["web/frontend"]}, triggers=[TRIGGER])
    done = CliRunner().invoke(app, ["render", "-f", str(path)])
    assert done.exit_code == 0, done.output
    checked = set()
    for obj in yaml.safe_load_all(done.stdout):
        key = f"{obj['apiVersion']}/{obj['kind']}"
        if "istio.io" in key or "linkerd.io" in key:
            jsonschema.validate(obj["spec"], SCHEMAS[key])
            checked.add(key)
    expected = "policy.linkerd.io" if mesh == "linkerd" else "istio.io"
    assert checked
    assert all(expected in key for key in checked)


def test_a_mesh_named_on_the_command_line_replaces_the_files(tmp_path):
    path = written(tmp_path, mesh="linkerd")
    done = CliRunner().invoke(app, ["render", "-f", str(path), "--mesh", "none"])
    assert "linkerd" not in done.stdout
    done = CliRunner().invoke(app, ["render", "-f", str(path), "--mesh", "istio"])
    assert "kind: PeerAuthentication" in done.stdout
    assert "linkerd" not in done.stdout
    done = CliRunner().invoke(app, ["render", "-f", str(path), "--mesh", "consul"])
    assert done.exit_code == 2
    assert "'consul' must be one of none, istio" in " ".join(done.output.replace("│", "").split())


def test_each_stage_runs_as_an_account_of_its_own(tmp_path):
    found = objects(tmp_path, mesh="istio")
    for stage in ("generate", "clean", "chain"):
        pod = found["Service", f"{stage}-demo"]["spec"]["template"]["spec"]
        assert pod["serviceAccountName"] == f"demo-{stage}"
        assert pod["automountServiceAccountToken"] is False
        assert ("ServiceAccount", f"demo-{stage}") in found


def test_with_sidecars_only_orchestrate_may_call_an_inner_stage(tmp_path):
    found = objects(tmp_path, mesh={"type": "istio", "callers": ["web/frontend"]})
    chain = "*/ns/agents/sa/demo-chain"
    inner, entry = (
        found["AuthorizationPolicy", f"{name}-demo"]["spec"]["rules"][0] for name in ("generate", "chain")
    )
    assert inner["from"] == [
        {"source": {"principals": [chain]}},
        {"source": {"namespaces": ["knative-serving"]}},
    ]
    assert entry["from"][0] == {"source": {"principals": ["*/ns/web/sa/frontend"]}}
    assert "kourier-system" in entry["from"][1]["source"]["namespaces"]
    # What the pods take from the activator, the activator takes from orchestrate alone.
    guard = found["AuthorizationPolicy", "agents-demo"]
    assert guard["metadata"]["namespace"] == "knative-serving"
    assert guard["spec"]["action"] == "DENY"
    by_host, by_header = guard["spec"]["rules"][:2]
    assert by_host["from"] == [{"source": {"notNamespaces": ["knative-serving"], "notPrincipals": [chain]}}]
    assert "generate-demo.agents.svc.cluster.local" in by_host["to"][0]["operation"]["hosts"]
    assert by_header["when"][1]["values"] == ["generate-demo-0*"]
    guarded = json.dumps(guard)
    assert "clean-demo" in guarded
    assert "chain-demo" not in guarded


def test_a_sidecar_keeps_away_from_weights_and_leaves_observers_a_port(tmp_path):
    found = objects(tmp_path, mesh="istio")
    model, text = (
        found["Service", f"{name}-demo"]["spec"]["template"]["metadata"]["annotations"]
        for name in ("generate", "clean")
    )
    bypass = "traffic.sidecar.istio.io/excludeOutboundPorts"
    assert model[bypass] == "443"
    assert bypass not in text
    assert model["pilotlight.dev/observed-port"] == "8080"
    pod = {
        "metadata": {"annotations": model},
        "status": {"conditions": [{"type": "Ready", "status": "True"}], "podIP": "10.0.0.7"},
    }
    assert replica_url(pod, "/metrics") == "http://10.0.0.7:8080/metrics"
    peer = found["PeerAuthentication", "demo"]["spec"]
    assert peer["mtls"] == {"mode": "STRICT"}
    assert peer["portLevelMtls"] == {"8080": {"mode": "PERMISSIVE"}}
    opened = found["AuthorizationPolicy", "generate-demo"]["spec"]["rules"][-1]["to"][0]["operation"]
    assert opened == {"ports": ["8080"], "paths": ["/metrics", "/admin/warmth", "/healthz/*"]}


def test_the_network_policy_lets_the_meshs_own_connections_through(tmp_path):
    sidecars = objects(tmp_path, mesh={"type": "istio", "callers": ["web/frontend"]})
    within = sidecars["NetworkPolicy", "demo-ingress"]["spec"]["ingress"][-1]
    assert {"podSelector": {"matchLabels": {"pilotlight.dev/agent": "demo"}}} in within["from"]
    assert "web" in json.dumps(within)
    for mesh, port in (("istio-ambient", 15008), ("linkerd", 4143)):
        serving = objects(tmp_path, mesh=mesh)["NetworkPolicy", "demo-ingress"]["spec"]["ingress"][0]
        assert port in [item["port"] for item in serving["ports"]]
    plain = objects(tmp_path)["NetworkPolicy", "demo-ingress"]["spec"]["ingress"]
    assert len(plain) == 2


def test_dispatchers_are_in_the_mesh_and_jobs_are_not(tmp_path):
    path = written(tmp_path, mesh="istio", triggers=[TRIGGER], dispatcher={"image": "example.com/triggers:1"})
    agent = load_agent(path)
    (deployment,) = [obj for obj in dispatcher_objects(agent) if obj["kind"] == "Deployment"]
    assert deployment["spec"]["template"]["metadata"]["labels"]["sidecar.istio.io/inject"] == "true"
    job = warm_job(warm_target(agent))["spec"]["template"]["metadata"]
    assert job["labels"]["sidecar.istio.io/inject"] == "false"
    assert job["labels"]["istio.io/dataplane-mode"] == "none"
    assert not any(key.startswith("traffic.sidecar") for key in job["annotations"])


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"mesh": "consul"}, "'none', 'istio', 'istio-ambient' or 'linkerd'"),
        ({"mesh": {"type": "istio", "callers": ["frontend"]}}, "spec.mesh.callers.0"),
    ],
)
def test_a_mesh_that_is_none_is_refused(tmp_path, spec, said):
    done = CliRunner().invoke(app, ["render", "-f", str(written(tmp_path, **spec))])
    assert done.exit_code != 0
    assert said in str(done.exception or done.output)


def test_what_the_mesh_cannot_tell_apart_is_said(tmp_path):
    shared = written(tmp_path, mesh="istio", serviceAccountName="s3-reader")
    done = CliRunner().invoke(app, ["render", "-f", str(shared)])
    assert "share the account s3-reader" in done.stderr
    without_keys = written(tmp_path, mesh="linkerd", auth=None)
    done = CliRunner().invoke(app, ["render", "-f", str(without_keys)])
    assert "hides who calls" in done.stderr


def test_doctor_asks_for_the_rights_to_the_meshs_objects_and_not_for_accounts_that_deploy_makes(tmp_path):
    agent = load_agent(written(tmp_path, mesh="istio"))
    asked = {(right.resource, right.namespace) for right in rights([agent])}
    assert {("peerauthentications", "agents"), ("authorizationpolicies", "knative-serving")} <= asked
    assert ("serviceaccounts", "agents") in asked
    named = {reference.kind for need in stages([agent]) for reference, _ in references(need)}
    assert "ServiceAccount" not in named
    own = load_agent(written(tmp_path, mesh="istio", serviceAccountName="s3-reader"))
    named = {reference.name for need in stages([own]) for reference, _ in references(need)}
    assert "s3-reader" in named


def test_the_waker_of_durable_runs_may_call_orchestrate(tmp_path):
    runs = {"store": "postgres", "urlSecret": {"secret": "runs", "key": "url"}}
    stages = [*STAGES[:2], {**STAGES[2], "config": {"runs": runs}}]
    found = objects(tmp_path, mesh="istio", stages=stages)
    pod = found["Deployment", "demo-runs-waker"]["spec"]["template"]
    assert pod["spec"]["serviceAccountName"] == "demo-runs-waker"
    assert pod["metadata"]["labels"]["sidecar.istio.io/inject"] == "true"
    assert ("ServiceAccount", "demo-runs-waker") in found
    entry, inner = (json.dumps(found["AuthorizationPolicy", f"{name}-demo"]) for name in ("chain", "clean"))
    assert "*/ns/agents/sa/demo-runs-waker" in entry
    assert "runs-waker" not in inner
    within = found["NetworkPolicy", "demo-ingress"]["spec"]["ingress"][-1]["from"]
    component = pod["metadata"]["labels"]["app.kubernetes.io/component"]
    assert {"podSelector": {"matchLabels": {"app.kubernetes.io/component": component}}} in within
    plain = objects(tmp_path, stages=stages)["Deployment", "demo-runs-waker"]["spec"]["template"]["spec"]
    assert "serviceAccountName" not in plain


def test_the_controller_may_ask_the_prompts_of_a_rollouts_quality_check(tmp_path):
    quality = {"prompts": [{"prompt": "2 + 2?", "contains": ["4"]}]}
    stages = [{**STAGES[0], "rollout": {"quality": quality}}, *STAGES[1:]]
    found = objects(tmp_path, mesh="istio", stages=stages)

    def observed(name: str) -> list[str]:
        return found["AuthorizationPolicy", name]["spec"]["rules"][-1]["to"][0]["operation"]["paths"]

    assert "/invoke" in observed("generate-demo")
    assert "/invoke" not in observed("clean-demo")
