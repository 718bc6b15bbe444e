"""Where the controller's requests to replicas go, and with which secret: pods are made by anybody."""

from datetime import timedelta

import pytest
from aiohttp import web
from typer.testing import CliRunner

from knative.client.resources import POD, REVISION
from knative.local.apiserver.store import Key
from knative.service_token import service_token
from pilotlight.cli.pool import app
from warmpool.adapters.admin_key import read_admin_key
from warmpool.adapters.phases import HttpPhases
from warmpool.adapters.pods import replica_url
from warmpool.adapters.replicas import HttpWarmthClient
from warmpool.domain.replica_warmth import ReplicaWarmth
from warmpool.domain.spec_errors import SpecError

KEY = "a key of more than sixteen characters"
HOUR = timedelta(hours=1)
READY = {"type": "Ready", "status": "True"}
CONTAINERS = {"containers": [{"name": "user-container", "image": "registry.local/x"}]}


def pod(port=None, *, address="10.1.2.3", ready=True, host_network=False, **meta):
    annotations = {} if port is None else {"pilotlight.dev/port": port}
    return {
        "metadata": {"name": "x", "annotations": annotations, **meta},
        "spec": {"hostNetwork": True} if host_network else {},
        "status": {"podIP": address, "conditions": [READY] if ready else []},
    }


@pytest.mark.parametrize(
    ("what", "of", "url"),
    [
        ("queue-proxy's port", pod(), "http://10.1.2.3:8012/x"),
        ("the local platform's port", pod("40123"), "http://10.1.2.3:40123/x"),
        ("IPv6", pod(address="fd00::1"), "http://[fd00::1]:8012/x"),
        ("another host in the port", pod("1@metadata.internal/latest#"), None),
        ("a path in the port", pod("80/admin"), None),
        ("another script's digits", pod("٨٠"), None),
        ("port 0", pod("0"), None),
        ("a port beyond all ports", pod("65536"), None),
        ("a negative port", pod("-1"), None),
        ("an address that is a name", pod(address="metadata.internal"), None),
        ("an address with a port", pod(address="10.1.2.3:80"), None),
        ("no address", pod(address=None), None),
        ("not ready", pod(ready=False), None),
        ("being deleted", pod(deletionTimestamp="2026-01-01T00:00:00Z"), None),
        ("in the host's network", pod(host_network=True), None),
    ],
)
def test_a_request_goes_to_the_pods_own_address_and_an_integer_port(what, of, url):
    assert replica_url(of, "/x") == url, what


def test_each_service_has_a_secret_of_its_own():
    secrets = {service_token(KEY, *service) for service in [("a", "b"), ("a", "c"), ("b", "b")]}
    assert len(secrets) == 3
    assert service_token(KEY, "a", "b") == service_token(KEY, "a", "b")
    assert service_token(KEY, "a", "b") != service_token(KEY + "x", "a", "b")
    assert KEY not in "".join(secrets)


@pytest.fixture
async def listener():
    """A server that notes every request and answers as a replica would."""
    seen = []

    async def answer(request):
        seen.append((request.method, request.path_qs, request.headers.get("authorization")))
        return web.json_response({"rest": "hot"})

    server = web.Application()
    server.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(server)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server_port = runner.addresses[0][1]
    yield server_port, seen
    await runner.cleanup()


def add(api, name, port, *, service="generate", revision="generate-00001", known=True):
    """A ready pod that says to be of a Revision."""
    labels = {"serving.knative.dev/service": service}
    key = Key(REVISION, "default", revision)
    if known and api.registry.store.get(key) is None:
        meta = {"name": revision, "labels": labels}
        obj = {
            "apiVersion": "serving.knative.dev/v1",
            "kind": "Revision",
            "metadata": meta,
            "spec": CONTAINERS,
        }
        api.registry.create(REVISION, "default", obj)
    meta = {
        "name": name,
        "labels": {**labels, "serving.knative.dev/revision": revision},
        "annotations": {"pilotlight.dev/port": str(port)},
    }
    api.registry.create(
        POD, "default", {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": CONTAINERS}
    )
    api.registry.set_status(Key(POD, "default", name), {"podIP": "127.0.0.1", "conditions": [READY]})


async def test_a_replica_gets_the_secret_of_its_own_service_and_no_other(api, cluster, listener):
    port, seen = listener
    add(api, "mine", port)
    add(api, "theirs", port, service="tenant", revision="tenant-00001")
    client = HttpWarmthClient(cluster, KEY)
    for service in ("generate", "tenant"):
        replicas, errors = await client.replicas(("default", service))
        assert ([replica.warmth for replica in replicas], errors) == (["hot"], [])
        assert await client.set_warmth(("default", service), replicas[0], "standby") is None
    of = {service: f"Bearer {service_token(KEY, 'default', service)}" for service in ("generate", "tenant")}
    assert [authorization for _, _, authorization in seen] == [
        of["generate"],
        of["generate"],
        of["tenant"],
        of["tenant"],
    ]


async def test_a_pod_that_steers_to_another_host_or_is_of_no_revision_gets_no_request(api, cluster, listener):
    port, seen = listener
    add(api, "steering", f"1@127.0.0.1:{port}/latest/meta-data#")
    add(api, "stranger", port, revision="made-up-00001", known=False)
    client = HttpWarmthClient(cluster, KEY)
    assert await client.replicas(("default", "generate")) == ([], [])
    assert await HttpPhases(cluster).phases(("default", "generate"), HOUR) is None
    assert seen == []


async def test_a_redirect_is_not_followed_with_the_secret(cluster, listener):
    port, seen = listener

    async def redirect(request):
        raise web.HTTPTemporaryRedirect(f"http://127.0.0.1:{port}/stolen")

    server = web.Application()
    server.router.add_route("*", "/{path:.*}", redirect)
    runner = web.AppRunner(server)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    replica = ReplicaWarmth("x", f"http://127.0.0.1:{runner.addresses[0][1]}/admin/warmth", "hot")
    refusal = await HttpWarmthClient(cluster, KEY).set_warmth(("default", "generate"), replica, "standby")
    assert "HTTP 307" in refusal
    assert seen == []
    await runner.cleanup()


def test_a_key_that_could_be_guessed_is_refused(tmp_path):
    file = tmp_path / "key"
    file.write_text("short\n")
    with pytest.raises(SpecError, match="at least 16"):
        read_admin_key(file)
    file.write_text(f"  {KEY}\n")
    assert read_admin_key(file) == KEY


def test_the_command_line_prints_the_secret_of_a_service(tmp_path):
    file = tmp_path / "key"
    file.write_text(KEY)
    done = CliRunner().invoke(app, ["token", "team/generate", f"--admin-key-file={file}"])
    assert (done.exit_code, done.stdout.strip()) == (0, service_token(KEY, "team", "generate"))
    done = CliRunner().invoke(app, ["token", "generate", f"--admin-key-file={tmp_path / 'nowhere'}"])
    assert done.exit_code == 2
