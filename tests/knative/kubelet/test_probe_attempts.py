"""One attempt of a probe, against real servers and programs."""

from pathlib import Path

import pytest
from aiohttp import web

from knative.local.kubelet.probes import Probe, Prober

HOST = "127.0.0.1"


@pytest.fixture
async def prober():
    made = Prober(HOST)
    yield made
    await made.close()


@pytest.fixture
async def port():
    """A server that answers each path with the status that it names."""

    async def answer(request: web.BaseRequest) -> web.Response:
        return web.Response(status=int(request.path.lstrip("/") or 200))

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    site = web.TCPSite(runner, HOST, 0)
    await site.start()
    yield site._server.sockets[0].getsockname()[1]
    await runner.cleanup()


@pytest.mark.parametrize(("path", "ok"), [("/200", True), ("/302", True), ("/404", False), ("/503", False)])
async def test_an_http_probe_succeeds_with_a_status_below_400(prober, port, path, ok):
    assert (await prober.attempt(Probe("http", port=port, path=path), {}, Path())).ok is ok


async def test_a_tcp_probe_succeeds_when_the_port_is_open(prober, port):
    assert (await prober.attempt(Probe("tcp", port=port), {}, Path())).ok
    closed = await prober.attempt(Probe("tcp", port=1), {}, Path())
    assert not closed.ok
    assert closed.message.startswith("dial tcp 127.0.0.1:1:")


@pytest.mark.parametrize(("command", "ok"), [(("true",), True), (("false",), False)])
async def test_an_exec_probe_succeeds_with_exit_code_0(prober, command, ok):
    assert (await prober.attempt(Probe("exec", command=command), {"PATH": "/usr/bin:/bin"}, Path())).ok is ok


async def test_an_attempt_ends_with_its_timeout(prober):
    probe = Probe("exec", command=("sleep", "60"), timeout_s=0.1)
    result = await prober.attempt(probe, {"PATH": "/usr/bin:/bin"}, Path())
    assert (result.ok, result.message) == (False, "no answer within 0.1 s")


@pytest.mark.parametrize(
    "probe",
    [
        Probe("http", port=1, headers=(("X", "a\r\nb: c"),)),
        Probe("http", port=1, headers=(("", ""),)),
        Probe("http", port=99_999),
        Probe("http", port=1, path="/\x00"),
        Probe("tcp", port=99_999),
        Probe("exec", command=("a\x00b",)),
        Probe("exec", command=()),
        Probe("exec", command=("/no/such/program",)),
    ],
)
async def test_a_probe_that_makes_no_sense_fails_and_says_why(prober, probe):
    result = await prober.attempt(probe, {}, Path())
    assert not result.ok
    assert result.message
