"""What `kubectl apply -k knative/manifests/controller` sends."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

import knative

CONTROLLER = Path(knative.__file__).parent / "manifests" / "controller"


@pytest.fixture(scope="module")
def rendered() -> list[dict]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed; CI installs it")
    done = subprocess.run(
        ["kubectl", "kustomize", str(CONTROLLER)], capture_output=True, text=True, check=True
    )
    return list(yaml.safe_load_all(done.stdout))


def one(rendered: list[dict], kind: str) -> dict:
    (found,) = [document for document in rendered if document["kind"] == kind]
    return found


def pod_templates(rendered: list[dict]) -> list[dict]:
    deployment, job = one(rendered, "Deployment"), one(rendered, "CronJob")
    return [deployment["spec"]["template"], job["spec"]["jobTemplate"]["spec"]["template"]]


def selects(selector: dict, labels: dict) -> bool:
    return selector.items() <= labels.items()


def test_service_and_deployment_select_the_controllers_pods_only(rendered):
    controller, job = (template["metadata"]["labels"] for template in pod_templates(rendered))
    for selector in (
        one(rendered, "Service")["spec"]["selector"],
        one(rendered, "Deployment")["spec"]["selector"]["matchLabels"],
    ):
        assert (selects(selector, controller), selects(selector, job)) == (True, False)


def test_the_monitor_selects_the_service(rendered):
    monitor = yaml.safe_load((CONTROLLER / "monitoring" / "servicemonitor.yaml").read_text())
    assert selects(monitor["spec"]["selector"]["matchLabels"], one(rendered, "Service")["metadata"]["labels"])


def test_no_image_is_pulled_before_one_is_named(rendered):
    images = [
        item["image"] for template in pod_templates(rendered) for item in template["spec"]["containers"]
    ]
    assert {image.partition("/")[0] for image in images} == {"example.invalid"}  # RFC 2606: never resolves


def test_pods_keep_the_namespaces_restricted_standard(rendered):
    """https://kubernetes.io/docs/concepts/security/pod-security-standards, which the namespace enforces."""
    labels = one(rendered, "Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    for template in pod_templates(rendered):
        assert template["spec"]["securityContext"]["runAsNonRoot"] is True
        assert template["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in template["spec"]["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}


def test_every_role_is_bound_to_an_account_that_exists(rendered):
    accounts = {document["metadata"]["name"] for document in rendered if document["kind"] == "ServiceAccount"}
    bound = {
        (subject["name"], document["roleRef"]["name"])
        for document in rendered
        if document["kind"] == "ClusterRoleBinding"
        for subject in document["subjects"]
    }
    roles = {document["metadata"]["name"] for document in rendered if document["kind"] == "ClusterRole"}
    assert {account for account, _ in bound} == accounts
    assert {role for _, role in bound} <= roles
    assert {template["spec"]["serviceAccountName"] for template in pod_templates(rendered)} == accounts
