"""The dashboard as `pilotlight up` serves it: its HTTP surface, and the page in a real browser."""

import asyncio
import json
import re
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime

import pytest

from knative.client.cluster import Cluster
from knative.client.resources import CONFIG_MAP, SERVICE, WARM_POOL
from tests.pilotlight.browser import chromium, needs_chromium

HOSTILE = "<img src=x onerror=window.hostile=1>\"'&</script><script>window.hostile=1</script>"


def started(cli, *args: str):
    running = cli.start("up", "--port", "0", "--api-port", "0", "--state", str(cli.state), *args)
    output = running.until(lambda text: "Ctrl-C stops" in text)
    (link,) = re.findall(r"dashboard +(http://\S+)", output)
    return link, link.partition("#token=")


def answer(url: str, *, method: str = "GET", body: bytes | None = None, **headers: str):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, data=body, method=method, headers=named)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, response.headers, response.read()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.headers, refused.read()


def service(name: str, *, note: str = "") -> dict:
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"template": {"metadata": {"annotations": {"autoscaling.knative.dev/initial-scale": "0"}},
                              "spec": {"containers": [{"image": "example.com/x:1", "command": ["true"]}]}}},
    }  # fmt: skip


def test_files_are_for_everyone_and_data_for_who_has_the_token(cli, echo_agent):
    _, (page, _, token) = started(cli, "-f", str(echo_agent))
    status, headers, body = answer(page)
    assert (status, b"<title>Pilotlight</title>" in body) == (200, True)
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert b"http:" not in body
    assert b"https:" not in body, "everything comes from the platform itself"
    for file in re.findall(rb'(?:src|href)="(static/[^"]+)"', body):
        assert answer(page + file.decode())[0] == 200
    assert answer(f"{page}static/..%2fapp.py")[0] == 404
    overview = f"{page}api/overview"
    for given in ("", "Bearer ", f"Bearer {token[:-1]}", f"Bearer {token}x", f"Basic {token}", "Bearer é"):
        status, headers, body = answer(overview, Authorization=given)
        assert (status, b"echo" in body) == (401, False), given
    bearer = f"Bearer {token}"
    assert answer(f"{page}api/services/default/echo-demo")[0] == 401
    for _ in range(20):  # a reading a second
        status, headers, body = answer(overview, Authorization=bearer)
        assert (status, headers["X-Pilotlight-Right"]) == (200, "write")
        shown = json.loads(body)
        if [echo["ready"] for echo in shown["services"]] == ["yes"]:
            break
        time.sleep(0.5)
    (echo,) = shown["services"]
    assert (echo["id"], echo["agent"], echo["ready"]) == ("default/echo-demo", "demo", "yes")
    assert shown["problems"] == []
    # under another name, and from another page
    assert answer(overview, Authorization=bearer, Host="evil.example")[0] == 421
    assert answer(overview, Authorization=bearer, Origin="http://evil.example")[0] == 403
    assert answer(overview, Authorization=bearer, Origin="http://localhost:1")[0] == 403
    # the token of the page is not that of the API
    assert answer(page.replace("/ui/", "/api/v1/namespaces"), Authorization=bearer)[0] == 401
    assert oct((cli.state / "dashboard-token").stat().st_mode)[-3:] == "600"
    detail = json.loads(answer(f"{page}api/services/default/echo-demo", Authorization=bearer)[2])
    assert any("keeps Service echo-demo warm" in line for line in detail["explanation"])
    assert len(detail["calendar"]["days"]) == 7
    assert answer(f"{page}api/services/default/none", Authorization=bearer)[0] == 404
    assert answer(f"{page}api/services/default/echo-demo/logs?lines=0", Authorization=bearer)[0] == 400
    assert answer(f"{page}api/cost?by=x", Authorization=bearer)[0] == 400


async def test_actions_change_the_pool_and_bad_ones_say_what_would_be_right(cli, echo_agent):
    _, (page, _, token) = await asyncio.to_thread(started, cli, "-f", str(echo_agent))
    bearer = f"Bearer {token}"

    def act(action: str, body: object, **headers: str):
        given = {"Authorization": bearer, "Content_Type": "application/json", **headers}
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        url = f"{page}api/pools/default/{headers.pop('pool', 'echo-demo')}/{action}"
        given.pop("pool", None)
        return answer(url, method="POST", body=raw, **given)

    async with Cluster.from_kubeconfig(cli.state / "kubeconfig") as cluster:

        async def pool():
            return await cluster.get(WARM_POOL, "echo-demo", "default")

        async def done(*args, **kwargs):
            return await asyncio.to_thread(act, *args, **kwargs)

        for body, expected in [
            ({"replicas": 0, "for": "1h"}, "must be from 1"),
            ({"replicas": 1.5, "for": "1h"}, "whole number"),
            ({"replicas": True, "for": "1h"}, "whole number"),
            ({"replicas": 1, "for": "8d"}, "from 1m to 7d"),
            ({"replicas": 1, "for": "soon"}, "soon"),
            ({}, "whole number"),
        ]:
            status, _, text = await done("hold", body)
            assert (status, expected in json.loads(text)["detail"]) == (422, True), text
        assert (await done("hold", b"[]"))[0] == 400
        assert (await done("hold", b"[" * 3000))[0] == 400
        assert (await done("hold", b" " * 5000))[0] == 413
        assert (await done("delete", {}))[0] == 404
        assert (await done("release", {}, pool="none"))[0] == 404
        assert (await done("hold", {"replicas": 1, "for": "1h"}, Content_Type="text/plain"))[0] == 415
        assert (await done("hold", {"replicas": 1, "for": "1h"}, Authorization="Bearer x"))[0] == 401
        assert "pilotlight.dev/hold-until" not in (await pool())["metadata"].get("annotations", {})
        assert (await done("enable", {}))[0] == 200
        assert (await pool())["spec"]["enabled"] is True
        assert (await done("disable", {}))[0] == 200
        assert (await pool())["spec"]["enabled"] is False


@needs_chromium
async def test_the_page_shows_services_and_holds_a_pool(cli, echo_agent, tmp_path):
    link, (page, _, _) = await asyncio.to_thread(started, cli, "-f", str(echo_agent))
    async with (
        Cluster.from_kubeconfig(cli.state / "kubeconfig") as cluster,
        chromium(tmp_path / "profile") as tab,
    ):
        await cluster.patch(
            SERVICE, "echo-demo", "default", {"metadata": {"labels": {"pilotlight.dev/stage": "x"}}}
        )
        await tab.size(1280, 900)
        await tab.open(page)
        await tab.until("!document.querySelector('#login').hidden")
        await tab.open("about:blank")
        await tab.open(link)
        await tab.until(
            "document.querySelector('#service-table tbody button').innerText === 'default/echo-demo'"
        )
        assert await tab.run("location.href") == page, "the token is not left in the address bar"
        # by keyboard: the first thing that Enter can open in the table
        await tab.run("document.querySelector('#service-table tbody button').focus()")
        await tab.press("Enter")
        await tab.until("document.querySelector('#detail-h').innerText === 'default/echo-demo'")
        await tab.until("document.querySelectorAll('#detail svg').length >= 2")
        await tab.run("document.querySelector('[data-act=enable]').click()")
        await tab.until("document.querySelector('.answer').innerText === 'enable done'")
        await tab.run("document.querySelector('[data-act=hold]').click()")
        await tab.until("document.querySelector('.answer').innerText.startsWith('held until')")
        pool = await cluster.get(WARM_POOL, "echo-demo", "default")
        assert pool["metadata"]["annotations"]["pilotlight.dev/hold-replicas"] == "1"
        assert datetime.fromisoformat(
            pool["metadata"]["annotations"]["pilotlight.dev/hold-until"]
        ) > datetime.now(UTC)
        await tab.until("document.querySelector('.pool-state').innerText.includes('held at 1')")
        await tab.run("document.querySelector('.part-logs button').click()")
        await tab.until("document.querySelector('.part-logs').innerText.includes('echo-demo-00001')")
        # on a phone nothing is wider than the screen
        await tab.size(390, 800, phone=True)
        assert await tab.until("document.documentElement.scrollWidth <= 390")
        # names and messages are strangers' input
        await cluster.patch(
            WARM_POOL, "echo-demo", "default", {"status": {"reason": HOSTILE}}, subresource="status"
        )
        await tab.run(
            f"Promise.resolve().then(() => {{ const o = structuredClone(state.overview); o.services[0].id = {json.dumps(HOSTILE)}; "
            f"o.services[0].why = o.services[0].agent = {json.dumps(HOSTILE)}; o.problems = [{json.dumps(HOSTILE)}]; "
            f"o.agents[0].id = o.agents[0].stages[0].service = {json.dumps(HOSTILE)}; state.overview = o; show(); }})"
        )
        assert "<img src=x" in await tab.run("document.querySelector('#problems').innerText")
        await asyncio.sleep(0)
        assert (
            await tab.run("[window.hostile === undefined, document.querySelectorAll('img').length].join()")
            == "true,0"
        )
        assert tab.errors == [], tab.errors


@needs_chromium
async def test_a_thousand_services_are_shown_by_the_hundred_and_filtered(cli, tmp_path):
    link, _ = await asyncio.to_thread(started, cli)
    async with Cluster.from_kubeconfig(cli.state / "kubeconfig") as cluster:
        zero = {"data": {"allow-zero-initial-scale": "true"}}
        await cluster.patch(CONFIG_MAP, "config-autoscaler", "knative-serving", zero)
        for begin in range(0, 1000, 50):
            await asyncio.gather(
                *(cluster.create(SERVICE, service(f"s{n:04}")) for n in range(begin, begin + 50))
            )
        async with chromium(tmp_path / "profile") as tab:
            await tab.open(link)
            await tab.until("state.overview?.services.length === 1000", timeout=120)
            rows = "document.querySelectorAll('#service-table tbody tr').length"
            assert await tab.run(rows) == 100
            await tab.run("document.querySelector('#more').click()")
            assert await tab.run(rows) == 200
            await tab.run(
                "const box = document.querySelector('#filter'); box.value = 's0777'; box.dispatchEvent(new Event('input'))"
            )
            assert await tab.until(f"{rows} === 1")
            assert tab.errors == [], tab.errors


@pytest.mark.parametrize("path", ["/ui", "/uix", "/ui/api/overview/"])
def test_only_its_own_paths_are_the_pages(cli, path):
    _, (page, _, _) = started(cli)
    status, _, _ = answer(page.replace("/ui/", path))
    assert status == {"/ui": 200, "/uix": 401, "/ui/api/overview/": 401}[path]
