"""The dashboard as a cluster runs it: its manifests, and the command that serves it, read-only."""

import json
import re
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

import knative
from knative.client import resources
from pilotlight.dashboard.object_cache import ObjectCache
from tests.pilotlight.kubernetes_schemas import faults, known
from tests.pilotlight.test_dashboard import answer, started

ROOT = Path(__file__).parents[2]
MANIFESTS = Path(knative.__file__).parent / "manifests" / "controller" / "dashboard"
TOKEN = "a-token-of-a-secret-0123456789"


@pytest.fixture(scope="module")
def rendered() -> list[dict[str, Any]]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed; CI installs it")
    done = subprocess.run(
        ["kubectl", "kustomize", str(MANIFESTS)], capture_output=True, text=True, check=True
    )
    return list(yaml.safe_load_all(done.stdout))


def one(rendered: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = [obj for obj in rendered if obj["kind"] == kind]
    return found


def test_the_manifests_are_valid_and_belong_together(rendered):
    assert [fault for obj in rendered if known(obj) for fault in faults(obj)] == []
    pod = one(rendered, "Deployment")["spec"]["template"]
    assert (
        one(rendered, "Deployment")["spec"]["selector"]["matchLabels"].items()
        <= pod["metadata"]["labels"].items()
    )
    assert one(rendered, "Service")["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    account = one(rendered, "ServiceAccount")["metadata"]
    binding = one(rendered, "ClusterRoleBinding")
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": account["name"], "namespace": account["namespace"]}
    ]
    assert binding["roleRef"]["name"] == one(rendered, "ClusterRole")["metadata"]["name"]
    assert pod["spec"]["serviceAccountName"] == account["name"]


def test_the_account_may_look_at_what_is_shown_and_do_nothing(rendered):
    rules = one(rendered, "ClusterRole")["rules"]
    assert {verb for rule in rules for verb in rule["verbs"]} == {"list", "watch"}
    may = {(group, name) for rule in rules for group in rule["apiGroups"] for name in rule["resources"]}
    shown = (resources.SERVICE, resources.REVISION, resources.POD, resources.WARM_POOL, resources.TRIGGER)
    assert may == {(kind.group, kind.plural) for kind in shown}
    assert set(ObjectCache(None)._objects) == set(shown)


def test_the_pod_needs_the_secret_that_the_guide_makes(rendered):
    pod = one(rendered, "Deployment")["spec"]["template"]["spec"]
    (volume,) = pod["volumes"]
    guide = (ROOT / "docs" / "dashboard.md").read_text()
    (name, key) = re.search(r"secret generic (\S+) --from-literal=(\w+)=", guide).groups()
    assert volume["secret"] == {"secretName": name}, "not optional: without it there is no page"
    (container,) = pod["containers"]
    assert f"--token-file={container['volumeMounts'][0]['mountPath']}/{key}" in container["args"]
    service = one(rendered, "Service")
    port = container["ports"][0]["containerPort"]
    assert f"svc/{service['metadata']['name']} {port}" in guide
    assert container["command"] == ["pilotlight", "dashboard"]


def test_the_command_shows_and_changes_nothing_and_heeds_a_rotated_token(cli, echo_agent):
    started(cli, "-f", str(echo_agent))
    file = cli.home / "token"
    kubeconfig = str(cli.state / "kubeconfig")
    refused = cli.run("dashboard", "--token-file", str(file), "--kubeconfig", kubeconfig)
    assert (refused.returncode, "a token of 16 characters" in " ".join(refused.stderr.split())) == (2, True)
    file.write_text(TOKEN + "\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running = cli.start("dashboard", "--token-file", str(file), "--kubeconfig", kubeconfig, "--port", str(port),
                        "--allowed-host", "page.example")  # fmt: skip
    running.until(lambda _: answers(port))
    page, bearer = f"http://127.0.0.1:{port}/ui/", f"Bearer {TOKEN}"
    assert answer(f"{page}api/overview")[0] == 401
    assert answer(f"{page}api/overview", Authorization=bearer, Host="other.example")[0] == 421
    status, headers, body = answer(f"{page}api/overview", Authorization=bearer, Host="page.example")
    assert (status, headers["X-Pilotlight-Right"]) == (200, "read")
    assert [service["id"] for service in json.loads(body)["services"]] == ["default/echo-demo"]
    hold = f"{page}api/pools/default/echo-demo/hold"
    sent = json.dumps({"replicas": 1, "for": "1h"}).encode()
    assert (
        answer(hold, method="POST", body=sent, Authorization=bearer, Content_Type="application/json")[0]
        == 403
    )
    file.write_text("another-token-9876543210")
    assert answer(f"{page}api/overview", Authorization=bearer)[0] == 401
    assert answer(f"{page}api/overview", Authorization="Bearer another-token-9876543210")[0] == 200
    file.write_text("")
    assert answer(f"{page}api/overview", Authorization="Bearer ")[0] == 401
    assert running.interrupt() == 130


def answers(port: int) -> bool:
    try:
        return answer(f"http://127.0.0.1:{port}/healthz/ready")[0] == 200
    except OSError:
        return False
