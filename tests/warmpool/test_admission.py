"""Mistakes in a WarmPool are refused or warned of when it is applied: by the webhook, and by the local API."""

import ssl
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest
import yaml
from aiohttp import ClientConnectorError, ClientSession, TCPConnector

import knative
from knative.client.errors import ClusterError
from knative.client.resources import WARM_POOL
from knative.local.apiserver import certificates
from pilotlight import stack
from tests.warmpool.conftest import MovableClock
from warmpool.adapters.webhook import VALIDATE_PATH, WebhookServer
from warmpool.domain.admission import review_request

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
MANIFESTS = Path(knative.__file__).parent / "manifests" / "controller"
OFFICE = {"name": "office", "from": "08:00", "to": "19:00", "replicas": 1}


def pool(**spec):
    meta = {"name": "pool", "namespace": "default"}
    return {"metadata": meta, "spec": {"target": "generate", "windows": [OFFICE], **spec}}


def review(obj, old=None):
    request = {"uid": "f0", "operation": "UPDATE" if old else "CREATE", "object": obj, "oldObject": old}
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


BAD = pool(exceptions=[{"name": "bank", "holidays": {"country": "UK"}}], timeZone="Nowhere")


def test_a_mistake_denies_and_names_every_field():
    response = review_request(review(BAD), NOW)["response"]
    assert (response["uid"], response["allowed"]) == ("f0", False)
    assert response["status"]["code"] == 422
    assert "spec.timeZone = 'Nowhere'" in response["status"]["message"]
    assert "GB is the United Kingdom" in response["status"]["message"]


def test_what_is_probably_not_meant_is_allowed_with_a_warning():
    assert review_request(review(pool(timeZone="EST")), NOW) == {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "response": {
            "uid": "f0",
            "allowed": True,
            "warnings": ["spec.timeZone: EST has no summer time; America/New_York has"],
        },
    }


@pytest.mark.parametrize(
    ("obj", "old", "allowed"),
    [
        (pool(), None, True),
        (BAD, pool(), False),
        (BAD, BAD, True),  # its finalizer goes, or an annotation changes
        (pool(), BAD, True),
        (None, BAD, True),
        ({"metadata": {}}, None, False),
        ({"metadata": {}, "spec": "text"}, None, False),
    ],
)
def test_an_update_that_leaves_a_spec_as_it_is_passes(obj, old, allowed):
    assert review_request(review(obj, old), NOW)["response"]["allowed"] is allowed


@pytest.mark.parametrize("body", [None, [], {}, {"request": None}, {"request": {"object": {}}}])
def test_what_is_not_an_admission_review_is_refused(body):
    with pytest.raises(ValueError, match="must be an AdmissionReview"):
        review_request(body, NOW)


def place_certificate(folder, hosts=("127.0.0.1",)):
    """A Secret as kubelet mounts it; returns the certificate."""
    made = certificates.ensure(folder, hosts)
    (folder / "tls.key").write_bytes(made.with_suffix(".key").read_bytes())
    (folder / "tls.crt").write_bytes(made.read_bytes())
    return made


async def post(server, body, certificate):
    trust = ssl.create_default_context(cafile=certificate)
    async with (
        ClientSession(connector=TCPConnector(ssl=trust)) as session,
        session.post(f"https://127.0.0.1:{server.port}{VALIDATE_PATH}", json=body) as response,
    ):
        return response.status, await response.json(content_type=None) if response.status == 200 else None


async def test_the_webhook_answers_over_tls_with_the_mounted_certificate(tmp_path):
    certificate = place_certificate(tmp_path)
    async with WebhookServer(MovableClock(NOW), tmp_path, host="127.0.0.1", port=0) as server:
        status, answer = await post(server, review(BAD), certificate)
        assert (status, answer["response"]["allowed"]) == (200, False)
        assert (await post(server, review(pool()), certificate))[1]["response"] == {
            "uid": "f0",
            "allowed": True,
        }
        assert (await post(server, {"kind": "Pod"}, certificate))[0] == 400
        assert (await post(server, {"x": "y" * 9_000_000}, certificate))[0] == 413


async def test_the_webhook_waits_for_its_certificate_and_takes_a_renewed_one(tmp_path):
    async with WebhookServer(MovableClock(NOW), tmp_path, host="127.0.0.1", port=0) as server:
        assert server.port is None
        first = place_certificate(tmp_path)
        assert await server.check()
        assert (await post(server, review(pool()), first))[0] == 200
        old = first.read_bytes()
        for file in tmp_path.glob("api.*"):
            file.unlink()
        (tmp_path / "tls.crt").write_text("half written")
        assert await server.check()
        (tmp_path / "old.crt").write_bytes(old)
        assert (await post(server, review(pool()), tmp_path / "old.crt"))[0] == 200
        second = place_certificate(tmp_path, ("127.0.0.1", "localhost"))
        assert await server.check()
        assert (await post(server, review(pool()), second))[0] == 200
        with pytest.raises(ClientConnectorError):
            await post(server, review(pool()), tmp_path / "old.crt")


def test_the_manifests_name_the_server_that_answers():
    (webhook,) = yaml.safe_load((MANIFESTS / "webhook" / "webhook.yaml").read_text())["webhooks"]
    service = yaml.safe_load((MANIFESTS / "service.yaml").read_text())
    deployment = yaml.safe_load((MANIFESTS / "deployment.yaml").read_text())["spec"]["template"]["spec"]
    client = webhook["clientConfig"]["service"]
    assert client["path"] == VALIDATE_PATH
    assert client["name"] == service["metadata"]["name"]
    target = next(port["targetPort"] for port in service["spec"]["ports"] if port["port"] == client["port"])
    (container,) = deployment["containers"]
    assert target in {port["name"] for port in container["ports"]}
    folder = next(m["mountPath"] for m in container["volumeMounts"] if m["name"] == "webhook-certificate")
    assert f"--webhook-certificate={folder}" in container["args"]
    _, certificate = yaml.safe_load_all((MANIFESTS / "webhook" / "certificate.yaml").read_text())
    secret = next(v["secret"] for v in deployment["volumes"] if v["name"] == "webhook-certificate")
    assert (secret["secretName"], secret["optional"]) == (certificate["spec"]["secretName"], True)
    assert f"{client['name']}.{client['namespace']}.svc" in certificate["spec"]["dnsNames"]
    # While nobody answers, pools can be changed all the same.
    assert webhook["failurePolicy"] == "Ignore"


async def test_the_local_api_refuses_and_warns_as_the_webhook_does(tmp_path):
    config = stack.StackConfig(state_dir=tmp_path / "state", gateway_port=0, api_port=0)
    async with stack.running(config) as running:
        with pytest.raises(
            ClusterError, match=r"GB is the United Kingdom|spec.timeZone = 'Nowhere'"
        ) as refused:
            await running.cluster.create(WARM_POOL, BAD | {"spec": {**BAD["spec"], "exceptions": []}})
        assert "denied the request" in str(refused.value)
        token = yaml.safe_load(running.platform.kubeconfig.read_text())["users"][0]["user"]["token"]
        url = f"{running.platform.api_url}/apis/pilotlight.dev/v1alpha1/namespaces/default/warmpools"
        headers = {"Authorization": f"Bearer {token}"}
        body = {"apiVersion": "pilotlight.dev/v1alpha1", "kind": "WarmPool", **pool(timeZone="EST")}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.post(url, json=body) as response,
        ):
            assert response.status == 201
            assert response.headers["Warning"] == (
                '299 - "spec.timeZone: EST has no summer time; America/New_York has"'
            )
