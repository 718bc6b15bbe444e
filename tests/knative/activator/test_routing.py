"""Which Service and Revision a request reaches."""

import asyncio
import json
from collections import Counter

import pytest

from knative.local.routing import RevisionKey, RevisionSpec, TrafficTarget

OLD, NEW = RevisionKey("default", "a-00001"), RevisionKey("default", "a-00002")


@pytest.mark.parametrize(
    "host",
    [
        "a.default.localhost",
        "a.default.localhost:8080",
        "A.Default.LocalHost:1",
        "a.default.svc.cluster.local",
        "a.default.svc.cluster.local.",
        "a.default.svc",
        "a.default",
    ],
)
async def test_a_service_answers_at_all_its_host_names(gateway, host):
    await gateway.running()
    status, seen = await gateway.get("/x/y?q=1", host=host)
    assert (status, seen["path"], seen["query"]) == (200, "/x/y", "q=1")
    assert dict(seen["headers"])["host"] == host


async def test_a_service_answers_at_its_path(gateway):
    await gateway.running()
    for path, inner in [("/default/a", "/"), ("/default/a/", "/"), ("/default/a/v1//x%2Fy", "/v1//x%2Fy")]:
        status, seen = await gateway.get(path, host="localhost:8080")
        assert (status, seen["path"]) == (200, inner)
        assert dict(seen["headers"])["x-forwarded-prefix"] == "/default/a"


@pytest.mark.parametrize(
    "target", [b"/a/../b", b"/a//b/", b"/%2f%41?", b"/?a=b&c=%20+;x", b"/~u/$1,(2)'*!@:"]
)
async def test_the_target_arrives_as_it_was_sent(gateway, target):
    await gateway.running()
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(b"GET " + target + b" HTTP/1.1\r\nHost: a.default.localhost\r\nConnection: close\r\n\r\n")
    seen = json.loads((await reader.read()).partition(b"\r\n\r\n")[2])
    writer.close()
    path, _, query = target.decode().partition("?")
    assert (seen["path"], seen["query"]) == (path, query)


async def test_the_host_takes_precedence_over_the_path(gateway):
    await gateway.running()
    _, seen = await gateway.get("/default/a/x")
    assert seen["path"] == "/default/a/x"


@pytest.mark.parametrize("host", ["b.default.localhost", "localhost", "[::1]:8080", ""])
async def test_an_unknown_service_is_a_404_that_lists_the_services(gateway, host):
    await gateway.running()
    async with gateway.request("GET", "/b/c", host=host) as response:
        problem = await response.json(content_type="application/problem+json")
    assert response.status == 404
    assert problem["services"] == ["a.default"]
    assert problem["retryable"] is False
    assert "/b/c" in problem["detail"]


async def test_a_removed_service_is_gone(gateway):
    await gateway.running()
    gateway.activator.remove_service("default", "a")
    status, _ = await gateway.get()
    assert status == 404


async def test_a_tag_has_an_address_of_its_own(gateway):
    await gateway.running()
    gateway.activator.set_revision(RevisionSpec(NEW, "a"))
    gateway.activator.set_endpoints(NEW, ((await gateway.replica("new")).endpoint,))
    gateway.activator.set_service(
        "default", "a", [TrafficTarget(OLD, 100), TrafficTarget(NEW, 0, tag="next")]
    )
    _, seen = await gateway.get(host="next-a.default.localhost")
    assert seen["replica"] == "new"
    _, seen = await gateway.get()
    assert seen["replica"] == "pod-1"
    gateway.activator.set_service("default", "a", [TrafficTarget(OLD, 100)])
    status, _ = await gateway.get(host="next-a.default.localhost")
    assert status == 404


async def test_a_services_name_takes_precedence_over_a_tag_that_spells_the_same_host(gateway):
    await gateway.running()
    other = RevisionKey("default", "t-a-00001")
    gateway.activator.set_revision(RevisionSpec(other, "t-a"))
    gateway.activator.set_endpoints(other, ((await gateway.replica("service")).endpoint,))
    gateway.activator.set_service("default", "t-a", [TrafficTarget(other, 100)])
    gateway.activator.set_service("default", "a", [TrafficTarget(OLD, 100, tag="t")])
    _, seen = await gateway.get(host="t-a.default.localhost")
    assert seen["replica"] == "service"
    gateway.activator.remove_service("default", "a")
    _, seen = await gateway.get(host="t-a.default.localhost")
    assert seen["replica"] == "service"


async def test_traffic_is_split_by_percent(gateway):
    await gateway.running()
    gateway.activator.set_revision(RevisionSpec(NEW, "a"))
    gateway.activator.set_endpoints(NEW, ((await gateway.replica("new")).endpoint,))
    gateway.activator.set_service("default", "a", [TrafficTarget(OLD, 70), TrafficTarget(NEW, 30)])
    answers = Counter(seen["replica"] for _, seen in [await gateway.get() for _ in range(400)])
    assert 60 <= answers["new"] <= 180


async def test_a_request_in_absolute_form_is_for_the_host_in_its_target(gateway):
    await gateway.running()
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(
        b"GET http://a.default.localhost/in?x=1 HTTP/1.1\r\nHost: elsewhere\r\nConnection: close\r\n\r\n"
    )
    answer = await reader.read()
    writer.close()
    seen = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert (seen["path"], seen["query"]) == ("/in", "x=1")
    assert dict(seen["headers"])["host"] == "a.default.localhost"


@pytest.mark.parametrize(
    "sent",
    [
        b"EHLO example",
        b"GET /\xe9 HTTP/1.1\r\nHost: a.default",
        b"POST / HTTP/1.1\r\nHost: a.default\r\nContent-Length: 1\r\nTransfer-Encoding: chunked",
        b"POST / HTTP/1.1\r\nHost: a.default\r\nContent-Length: 1\r\nContent-Length: 2",
        b"GET / HTTP/1.1\r\nHost: a.default\r\nX : y",
        b"GET / HTTP/1.1\r\nHost: a.default\r\nX: a\r\n b: c",
        b"POST / HTTP/1.1\r\nHost: a.default\r\nTransfer-Encoding: xchunked",
        b"POST / HTTP/1.1\r\nHost: a.default\r\nContent-Length: +4",
    ],
)
async def test_invalid_http_is_a_400(gateway, sent):
    await gateway.running()
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(sent + b"\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 400")
    writer.close()


async def test_the_gateway_has_a_health_check(gateway):
    async with gateway.request("GET", "/healthz", host="localhost") as response:
        assert (response.status, await response.text()) == (200, "ok")


async def test_the_replica_gets_the_clients_address_and_no_hop_by_hop_field(gateway):
    await gateway.running()
    _, seen = await gateway.get(
        headers={"X-Forwarded-For": "10.0.0.1", "Connection": "x-secret", "X-Secret": "1"}
    )
    headers = dict(seen["headers"])
    assert headers["x-forwarded-for"] == "10.0.0.1, 127.0.0.1"
    assert headers["x-forwarded-proto"] == "http"
    assert headers["forwarded"] == "for=127.0.0.1;host=a.default.localhost;proto=http"
    assert "x-secret" not in headers
    assert "accept-encoding" in headers


@pytest.mark.parametrize(
    ("host", "sent", "expected"),
    [
        ("a.default", None, "for=127.0.0.1;host=a.default;proto=http"),
        ("a.default:8080", None, 'for=127.0.0.1;host="a.default:8080";proto=http'),
        (
            "a.default",
            'for="[2001:db8::1]";proto=https',
            'for="[2001:db8::1]";proto=https, for=127.0.0.1;host=a.default;proto=http',
        ),
    ],
)
async def test_each_hop_adds_its_element_to_forwarded(gateway, host, sent, expected):
    await gateway.running()
    _, seen = await gateway.get(host=host, headers={"Forwarded": sent} if sent else {})
    assert dict(seen["headers"])["forwarded"] == expected


async def test_a_client_cannot_pretend_that_it_was_held(gateway):
    await gateway.running()
    _, seen = await gateway.get(headers={"X-Pilotlight-Held": "100"})
    assert [float(value) < 10 for name, value in seen["headers"] if name == "x-pilotlight-held"] == [True]
