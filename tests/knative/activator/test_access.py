"""What a web page of another site can make a browser send is refused."""

import asyncio

import pytest

from knative.local.activator.access import AccessPolicy, origin_to_check
from knative.local.routing import RevisionKey, StartFailure

KEY = RevisionKey("default", "a-00001")
LOCAL = AccessPolicy()
OPEN = AccessPolicy(frozenset({"box.example"}), frozenset({"https://app.example", "null"}))


@pytest.mark.parametrize(
    ("host", "policy", "allowed"),
    [
        (b"localhost:8080", LOCAL, True),
        (b"LOCALHOST", LOCAL, True),
        (b"x.localhost:1", LOCAL, True),
        (b"127.0.0.1:8080", LOCAL, True),
        (b"192.168.1.5", LOCAL, True),
        (b"[::1]:8080", LOCAL, True),
        (b"[fe80::1]", LOCAL, True),
        (b"", LOCAL, True),
        (b"evil.example:8080", LOCAL, False),
        (b"localhost.evil.example", LOCAL, False),
        (b"127.0.0.1.evil.example", LOCAL, False),
        (b"127.1", LOCAL, False),
        (b"box.example:8080", LOCAL, False),
        (b"Box.Example:8080", OPEN, True),
        (b"other.example", OPEN, False),
        (b"other.example", AccessPolicy(hosts=frozenset({"*"})), True),
    ],
)
def test_path_urls_are_called_by_addresses_local_and_allowed_names(host, policy, allowed):
    assert policy.allows_host(host) is allowed


@pytest.mark.parametrize(
    ("origin", "host", "policy", "allowed"),
    [
        (b"http://localhost:3000", b"a.default.localhost:8080", LOCAL, True),
        (b"http://127.0.0.1:3000", b"localhost:8080", LOCAL, True),
        (b"http://[::1]:3000", b"localhost:8080", LOCAL, True),
        (b"http://a.default.localhost:8080", b"a.default.localhost:8080", LOCAL, True),
        (b"https://box.example", b"box.example", LOCAL, True),
        (b"https://evil.example", b"localhost:8080", LOCAL, False),
        (b"http://192.168.1.9", b"localhost:8080", LOCAL, False),
        (b"https://localhost.evil.example", b"localhost:8080", LOCAL, False),
        (b"null", b"localhost:8080", LOCAL, False),
        (b"chrome-extension://abc", b"abc", LOCAL, False),
        (b"http://[::1", b"localhost:8080", LOCAL, False),
        (b"https://app.example", b"localhost:8080", OPEN, True),
        (b"https://app.example:444", b"localhost:8080", OPEN, False),
        (b"null", b"localhost:8080", OPEN, True),
        (b"https://evil.example", b"localhost:8080", AccessPolicy(origins=frozenset({"*"})), True),
    ],
)
def test_pages_of_this_machine_of_the_same_and_of_allowed_origins_may_write(origin, host, policy, allowed):
    assert policy.allows_origin(origin, host) is allowed


@pytest.mark.parametrize(
    ("method", "upgrades", "headers", "checked"),
    [
        ("GET", False, [], False),
        ("HEAD", False, [], False),
        ("OPTIONS", False, [], False),
        ("OPTIONS", False, [(b"access-control-request-method", b"POST")], True),
        ("POST", False, [], True),
        ("DELETE", False, [], True),
        ("GET", True, [], True),
    ],
)
def test_the_origin_counts_for_writes_upgrades_and_preflights(method, upgrades, headers, checked):
    found = origin_to_check(method, [(b"origin", b"https://x"), *headers], upgrades=upgrades)
    assert found == (b"https://x" if checked else None)
    assert origin_to_check(method, headers, upgrades=upgrades) is None


async def problem_of(gateway, method, path, **options):
    async with gateway.request(method, path, **options) as response:
        return response.status, await response.json(content_type="application/problem+json")


async def test_a_foreign_host_reaches_no_service_by_its_path_and_learns_of_none(gateway):
    replica = await gateway.running()
    for path in ("/default/a/v1/models", "/"):
        status, problem = await problem_of(gateway, "GET", path, host="evil.example:8080")
        assert status == 421
        assert "PILOTLIGHT_ALLOWED_HOSTS" in problem["detail"]
        assert "services" not in problem
    assert replica.total == 0


async def test_a_foreign_page_can_neither_write_nor_wake_a_service(gateway):
    gateway.deploy()
    for method, headers in [
        ("POST", {}),
        ("OPTIONS", {"Access-Control-Request-Method": "POST"}),
        ("GET", {"Connection": "Upgrade", "Upgrade": "websocket"}),
    ]:
        status, problem = await problem_of(
            gateway, method, "/", headers={"Origin": "https://evil.example", **headers}
        )
        assert (status, problem["retryable"]) == (403, False)
        assert "PILOTLIGHT_ALLOWED_ORIGINS" in problem["detail"]
    assert gateway.stats == []


async def test_a_page_of_this_machine_can_write(gateway):
    await gateway.running()
    async with gateway.request(
        "POST", "/", data=b"x", headers={"Origin": f"http://localhost:{gateway.port}"}
    ) as response:
        assert (response.status, (await response.json())["length"]) == (200, 1)


async def test_a_host_field_in_absolute_form_is_checked_too(gateway):
    await gateway.running()
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(
        b"GET http://evil.example/default/a/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    assert (await reader.read()).startswith(b"HTTP/1.1 421")
    writer.close()


PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}


async def test_a_preflight_of_a_service_at_zero_is_answered_here_and_wakes_nothing(gateway):
    gateway.deploy(allowed_origins=frozenset({"https://app.example"}))
    for path in ("/invoke", "/v1/chat/completions"):
        headers = {"Origin": "https://app.example", **PREFLIGHT}
        async with gateway.request("OPTIONS", path, headers=headers) as response:
            assert response.status == 204
            assert response.headers["Access-Control-Allow-Origin"] == "https://app.example"
            assert response.headers["Access-Control-Allow-Headers"] == "authorization"
            assert "POST" in response.headers["Access-Control-Allow-Methods"]
    for origin in ("https://evil.example", "http://localhost:3000", "null"):
        async with gateway.request("OPTIONS", "/invoke", headers={"Origin": origin, **PREFLIGHT}) as response:
            assert response.status == 403
            assert "Access-Control-Allow-Origin" not in response.headers
    assert gateway.stats == [], "the autoscaler hears of none of them"


async def test_a_service_that_says_nothing_of_origins_answers_preflights_itself(gateway):
    await gateway.running()
    headers = {"Origin": "http://localhost:3000", **PREFLIGHT}
    async with gateway.request("OPTIONS", "/x", headers=headers) as response:
        assert (await response.json())["method"] == "OPTIONS"


async def test_pages_of_an_allowed_origin_may_write_and_read_the_gateways_own_errors(gateway):
    gateway.deploy(allowed_origins=frozenset({"https://app.example"}))
    gateway.activator.set_failure(KEY, StartFailure(KEY.name, "ExitCode1", "no such model", retryable=True))
    origin = {"Origin": "https://app.example"}
    async with gateway.request("POST", "/invoke", json={}, headers=origin) as response:
        assert response.status == 503
        assert response.headers["Access-Control-Allow-Origin"] == "https://app.example"
    async with gateway.request(
        "POST", "/invoke", json={}, headers={"Origin": "https://b.example"}
    ) as response:
        assert response.status == 403


async def test_errors_of_the_gateway_have_what_openais_clients_look_for(gateway):
    gateway.deploy()
    gateway.activator.set_failure(KEY, StartFailure(KEY.name, "ExitCode1", "no such model", retryable=True))
    async with gateway.request("POST", "/v1/chat/completions", json={"model": "m"}) as response:
        problem = await response.json(content_type=None)
        assert (response.status, response.headers["Retry-After"]) == (503, "1")
        assert problem["error"] == {
            "message": problem["detail"],
            "type": "service_unavailable_error",
            "param": None,
            "code": "service_unavailable",
            "status": 503,
            "retryable": True,
        }
    async with gateway.request("POST", "/invoke", json={}) as response:
        assert "error" not in await response.json(content_type=None)


@pytest.mark.parametrize("path", ["/health", "/ping"])
async def test_a_models_health_is_told_without_waking_it_or_keeping_it_awake(gateway, path):
    gateway.deploy(answers_health=True)
    async with gateway.request("GET", path) as response:
        assert (response.status, await response.read()) == (200, b""), "a request would be held, and answered"
    await gateway.running(answers_health=True)
    async with gateway.request("GET", path) as response:
        assert (response.status, await response.read()) == (200, b"")
    await gateway.ready()
    gateway.activator.set_failure(KEY, StartFailure(KEY.name, "ExitCode1", "no such model", retryable=True))
    async with gateway.request("GET", path) as response:
        assert (response.status, "no such model" in await response.text()) == (503, True)
    assert gateway.stats == []
    async with gateway.request("POST", path, json={}) as response:
        assert response.status == 503
    assert gateway.stats, "anything else counts"


async def test_a_container_answers_its_own_health(gateway):
    await gateway.running()
    async with gateway.request("GET", "/health") as response:
        assert (await response.json())["path"] == "/health"
