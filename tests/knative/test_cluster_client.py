"""The Kubernetes client's errors, from a server that answers what a test tells it to."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml
from aiohttp import web

from knative.client.cluster import Cluster
from knative.client.errors import (
    AlreadyExists,
    ClusterError,
    Conflict,
    Expired,
    Forbidden,
    Invalid,
    NotFound,
    TooManyRequests,
    Unavailable,
)
from knative.client.proxies import is_loopback
from knative.client.resources import SERVICE


def status(code: int, reason: str, **details) -> dict:
    return {
        "kind": "Status",
        "code": code,
        "reason": reason,
        "message": f"it is {reason}",
        "details": details,
    }


class Scripted:
    """A server with one answer."""

    def __init__(self) -> None:
        self.code, self.body, self.headers = 200, b"{}", {}
        self.seen: list[web.BaseRequest] = []

    def answer(self, code: int, body: object, **headers: str) -> None:
        self.code = code
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.headers = {key.replace("_", "-"): value for key, value in headers.items()}

    async def handle(self, request: web.BaseRequest) -> web.Response:
        await request.read()
        self.seen.append(request)
        return web.Response(
            status=self.code, body=self.body, headers=self.headers, content_type="application/json"
        )


def kubeconfig_of(port: int) -> dict:
    return {
        "current-context": "here",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}/prefix"}}],
        "users": [{"name": "u", "user": {"token": "secret"}}],
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "team"}}],
    }


@pytest.fixture
async def scripted() -> Scripted:
    return Scripted()


@pytest.fixture
async def kubeconfig(scripted: Scripted, tmp_path: Path) -> AsyncIterator[Path]:
    runner = web.ServerRunner(web.Server(scripted.handle))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(kubeconfig_of(port)))
    yield path
    await runner.cleanup()


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (400, "BadRequest", Invalid),
        (401, "Unauthorized", Forbidden),
        (403, "Forbidden", Forbidden),
        (404, "NotFound", NotFound),
        (409, "Conflict", Conflict),
        (409, "AlreadyExists", AlreadyExists),
        (410, "Expired", Expired),
        (422, "Invalid", Invalid),
        (429, "TooManyRequests", TooManyRequests),
        (500, "InternalError", Unavailable),
        (503, "ServiceUnavailable", Unavailable),
        (418, "Teapot", ClusterError),
    ],
)
async def test_every_status_has_its_error(scripted: Scripted, kubeconfig: Path, code, reason, kind):
    scripted.answer(code, status(code, reason, causes=[{"field": "spec.x", "message": "wrong"}]))
    async with Cluster.from_kubeconfig(kubeconfig) as cluster:
        with pytest.raises(ClusterError) as caught:
            await cluster.get(SERVICE, "a", "default")
    assert type(caught.value) is kind
    assert (caught.value.status, caught.value.reason) == (code, reason)
    assert (caught.value.causes[0].field, caught.value.causes[0].message) == ("spec.x", "wrong")


async def test_how_long_to_wait_is_read_from_header_or_body(scripted: Scripted, kubeconfig: Path):
    async with Cluster.from_kubeconfig(kubeconfig) as cluster:
        scripted.answer(429, status(429, "TooManyRequests"), retry_after="7")
        with pytest.raises(TooManyRequests) as caught:
            await cluster.list(SERVICE)
        assert caught.value.retry_after == 7.0
        scripted.answer(429, status(429, "TooManyRequests", retryAfterSeconds=3))
        with pytest.raises(TooManyRequests) as caught:
            await cluster.list(SERVICE)
        assert caught.value.retry_after == 3


async def test_a_body_that_is_not_a_status_is_quoted_briefly(scripted: Scripted, kubeconfig: Path):
    scripted.answer(502, b"<html>" + b"x" * 10_000)
    async with Cluster.from_kubeconfig(kubeconfig) as cluster:
        with pytest.raises(Unavailable) as caught:
            await cluster.version()
    assert len(str(caught.value)) < 400
    scripted.answer(200, b"not json")
    async with Cluster.from_kubeconfig(kubeconfig) as cluster:
        with pytest.raises(Unavailable, match="without JSON"):
            await cluster.version()


async def test_requests_carry_token_prefix_strictness_and_manager(scripted: Scripted, kubeconfig: Path):
    scripted.answer(200, {"metadata": {}})
    async with Cluster.from_kubeconfig(kubeconfig) as cluster:
        assert cluster.namespace == "team"
        body = {"metadata": {"name": "a/b", "namespace": "default"}}
        await cluster.apply(SERVICE, body, field_manager="me", force=True)
        await cluster.patch(SERVICE, "a", "default", {}, subresource="status")
    apply, patch = scripted.seen
    assert apply.headers["Authorization"] == "Bearer secret"
    assert apply.headers["Content-Type"] == "application/apply-patch+yaml"
    assert apply.raw_path.startswith("/prefix/apis/serving.knative.dev/v1/namespaces/default/services/a%2Fb?")
    assert dict(apply.query) == {"fieldManager": "me", "fieldValidation": "Strict", "force": "true"}
    assert patch.path.endswith("/services/a/status")
    assert patch.headers["Content-Type"] == "application/merge-patch+json"


async def test_warnings_of_the_server_are_passed_on(scripted: Scripted, kubeconfig: Path):
    seen: list[str] = []
    scripted.answer(200, {}, warning='299 - "unknown field \\"x\\""')
    async with Cluster.from_kubeconfig(kubeconfig, on_warning=seen.append) as cluster:
        await cluster.version()
    assert seen == ['unknown field "x"']


async def test_a_server_that_is_not_there_is_unavailable(tmp_path: Path, kubeconfig: Path):
    config = yaml.safe_load(kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = "http://127.0.0.1:9"
    path = tmp_path / "dead"
    path.write_text(yaml.safe_dump(config))
    async with Cluster.from_kubeconfig(path) as cluster:
        with pytest.raises(Unavailable, match=r"no answer from http://127\.0\.0\.1:9") as caught:
            await cluster.version()
    assert caught.value.status is None


@pytest.mark.parametrize(
    "content", [None, "", "{}", "a: [", "clusters: []\ncontexts: []\ncurrent-context: x"]
)
async def test_a_kubeconfig_that_cannot_be_used_is_named(tmp_path: Path, content):
    path = tmp_path / "config"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ClusterError, match=r"no usable kubeconfig in .*config"):
        Cluster.from_kubeconfig(path)


async def test_another_context_can_be_chosen_and_a_missing_one_is_named(kubeconfig: Path):
    async with Cluster.from_kubeconfig(kubeconfig, "here") as cluster:
        assert cluster.context == "here"
    with pytest.raises(ClusterError, match="nowhere"):
        Cluster.from_kubeconfig(kubeconfig, "nowhere")


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("api.localhost", True),
        ("127.0.0.1", True),
        ("127.8.0.3", True),
        ("::1", True),
        ("10.0.0.1", False),
        ("example.com", False),
        ("localhost.example.com", False),
    ],
)
def test_what_is_loopback(host, loopback):
    assert is_loopback(host) is loopback


async def test_loopback_is_never_reached_through_a_proxy(scripted: Scripted, kubeconfig: Path, monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    scripted.answer(200, {"gitVersion": "v1.34.0"})

    async with Cluster.from_kubeconfig(kubeconfig) as cluster:
        assert (await cluster.version())["gitVersion"] == "v1.34.0"


async def test_a_server_that_is_not_reached_through_a_proxy_says_which_one(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://someone:secret@127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    path = tmp_path / "config"
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "c",
                "clusters": [{"name": "c", "cluster": {"server": "https://cluster.invalid:6443"}}],
                "users": [{"name": "u", "user": {"token": "t"}}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            }
        )
    )

    async with Cluster.from_kubeconfig(path) as cluster:
        with pytest.raises(Unavailable) as refused:
            await cluster.version()

    assert "through the proxy http://127.0.0.1:9" in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "body",
    [
        {"kind": "Status", "code": "500", "details": [], "message": {"a": 1}},
        {"kind": "Status", "details": {"causes": "many", "retryAfterSeconds": "²"}},
        {"kind": "Status", "details": {"causes": [None, 1, {"field": 3}]}},
        ["Status"],
    ],
)
async def test_a_status_of_another_shape_is_still_an_error(scripted: Scripted, kubeconfig: Path, body):
    scripted.answer(503, body, retry_after="²")
    async with Cluster.from_kubeconfig(kubeconfig) as cluster:
        with pytest.raises(Unavailable) as caught:
            await cluster.get(SERVICE, "a", "default")
    assert (caught.value.status, caught.value.retry_after) == (503, None)
    assert str(caught.value) is not None


def watched(name: str, version: str) -> dict:
    meta = {"name": name, "namespace": "default", "uid": name, "resourceVersion": version}
    return {"type": "MODIFIED", "object": {"metadata": meta}}


@pytest.mark.parametrize(
    "line",
    ["not json", "[]", "{}", '{"type": "ADDED"}', '{"type": "ADDED", "object": {"metadata": {"name": 1}}}',
     '{"type": "ERROR", "object": {"kind": "Status", "code": 410}}', '{"type": "ERROR", "object": []}'],
)  # fmt: skip
async def test_a_watch_survives_lines_that_are_no_events(tmp_path: Path, line):
    lines = iter([line, json.dumps(watched("a", "3"))])

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        await request.read()
        if "watch" not in request.query:
            obj = {"metadata": watched("a", "2")["object"]["metadata"]}
            return web.json_response({"metadata": {"resourceVersion": "2"}, "items": [obj]})
        return web.Response(body=next(lines, "").encode() + b"\n")

    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(kubeconfig_of(site._server.sockets[0].getsockname()[1])))
    async with Cluster.from_kubeconfig(path) as cluster:
        seen = []
        async for kind, obj in cluster.watch(SERVICE):
            seen.append((kind, obj["metadata"]["resourceVersion"]))
            if len(seen) == 2:
                break
    await runner.cleanup()
    assert seen == [("ADDED", "2"), ("MODIFIED", "3")]
