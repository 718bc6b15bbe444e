"""A stream that waits for a start: its head at once, comments while it waits, errors as events, nginx in between."""

import asyncio
import contextlib
import json
import shutil
import socket
import time
from pathlib import Path

import openai
import pytest

from knative.local.routing import Endpoint, RevisionKey, StartFailure

KEY = RevisionKey("default", "a-00001")
STREAM = {"input": "x", "stream": True}
CHAT = {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True}


class Model:
    """A replica that streams one chunk, or answers with an error."""

    def __init__(self, status: int = 200, body: bytes = b"") -> None:
        self.status, self.body = status, body
        self.serving = None
        self.name = "pod-1"
        self.seen: list[dict] = []
        self.release = asyncio.Event()

    @property
    def endpoint(self):
        return Endpoint(self.name, "127.0.0.1", self.serving.port)

    async def __call__(self, scope, receive, send):
        headers = dict(scope["headers"])
        message = await receive()
        self.seen.append({"headers": headers, "body": message["body"]})
        stream = self.status == 200
        kind = b"text/event-stream; charset=utf-8" if stream else b"application/problem+json"
        fields = [(b"content-type", kind), (b"server-timing", b"warmth;desc=cold, weights;dur=12.5")]
        await send({"type": "http.response.start", "status": self.status, "headers": fields})
        if stream:
            chunk = {"choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": "stop"}]}
            chunk |= {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
            await send(
                {
                    "type": "http.response.body",
                    "body": f"data: {json.dumps(chunk)}\n\n".encode(),
                    "more_body": True,
                }
            )
            await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})
        else:
            await send({"type": "http.response.body", "body": self.body})


async def become_ready(gateway, model: Model) -> None:
    await gateway.replica(app=model)
    await gateway.ready(model)


async def test_the_head_comes_at_once_and_comments_until_the_start_is_done(gateway):
    gateway.deploy()
    gateway.activator.start_phase = lambda key: f"weights-of-{key.name}"
    model = Model()
    async with gateway.request("POST", "/v1/chat/completions", json=CHAT) as response:
        assert (response.status, response.content_type) == (200, "text/event-stream")
        assert gateway.activator.waiting(KEY) == 1
        for _ in range(3):
            comment = (await response.content.readuntil(b"\n\n")).decode()
            assert comment.startswith(": warming phase=weights-of-a-00001 elapsed=")
        await become_ready(gateway, model)
        rest = (await response.read()).decode()
    assert ": server-timing warmth;desc=cold, weights;dur=12.5" in rest
    assert rest.endswith("data: [DONE]\n\n")
    assert json.loads(model.seen[0]["body"]) == CHAT
    assert b"accept-encoding" not in model.seen[0]["headers"]


async def test_the_next_start_is_measured_by_the_last(gateway):
    gateway.deploy()
    for expected in ("phase=schedule elapsed", "% elapsed"):
        async with gateway.request("POST", "/invoke", json=STREAM) as response:
            comment = (await response.content.readuntil(b"\n\n")).decode()
            assert expected in comment, comment
            await become_ready(gateway, Model())
            await response.read()
        await gateway.ready()


@pytest.mark.parametrize(
    ("path", "body", "headers"),
    [
        ("/invoke", STREAM, {"X-Pilotlight-Progress": "off"}),
        ("/invoke", {"input": "x"}, {}),
        ("/v1/chat/completions", {**CHAT, "stream": False}, {}),
        ("/other", STREAM, {}),
        ("/invoke", {**STREAM, "input": "x" * 300_000}, {}),
    ],
)
async def test_other_requests_get_the_answers_own_head(gateway, path, body, headers):
    gateway.deploy()
    asking = asyncio.create_task(gateway.request("POST", path, json=body, headers=headers).__aenter__())
    await gateway.until(lambda: gateway.activator.waiting(KEY) == 1)
    await asyncio.sleep(0.5)
    assert not asking.done()
    await become_ready(gateway, Model())
    response = await asking
    assert response.headers["Server-Timing"].startswith("warmth")
    assert (await response.read()).startswith(b"data:")


@pytest.mark.parametrize(
    ("path", "body", "check"),
    [
        (
            "/invoke",
            STREAM,
            lambda name, data: (name, data["status"], data["detail"]) == ("error", 503, "no GPU"),
        ),
        (
            "/v1/chat/completions",
            CHAT,
            lambda name, data: (
                name is None
                and (data["error"]["message"], data["error"]["code"]) == ("no GPU", "service_unavailable")
            ),
        ),
        (
            "/v1/responses",
            {"input": "x", "stream": True},
            lambda name, data: (name, data["type"], data["message"]) == ("error", "error", "no GPU"),
        ),
        (
            "/v1/messages",
            {"messages": [], "stream": True},
            lambda name, data: (name, data["error"]["message"]) == ("error", "no GPU"),
        ),
    ],
)
async def test_an_error_after_the_head_is_an_event_of_the_dialect(gateway, path, body, check):
    gateway.deploy()
    problem = {"title": "Replica failed", "status": 503, "detail": "no GPU", "retryable": True}
    async with gateway.request("POST", path, json=body) as response:
        await response.content.readuntil(b"\n\n")
        await become_ready(gateway, Model(503, json.dumps(problem).encode()))
        lines = (await response.read()).decode().strip().split("\n\n")[-1].splitlines()
    name = lines[0].removeprefix("event: ") if lines[0].startswith("event: ") else None
    assert check(name, json.loads(lines[-1].removeprefix("data: "))), lines


async def test_a_start_that_fails_is_told_in_the_stream(gateway):
    gateway.deploy()
    async with gateway.request("POST", "/invoke", json=STREAM) as response:
        await response.content.readuntil(b"\n\n")
        gateway.activator.set_failure(
            KEY, StartFailure(KEY.name, "ExitCode1", "no such model", retryable=False)
        )
        last = (await response.read()).decode().strip().split("\n\n")[-1]
    assert last.startswith("event: error")
    assert "no such model" in last


async def test_a_client_that_gives_up_is_counted_and_its_start_goes_on(gateway):
    gateway.deploy()
    async with gateway.request("POST", "/invoke", json=STREAM) as response:
        await response.content.readuntil(b"\n\n")
        response.close()
    await gateway.until(lambda: gateway.activator.waiting(KEY) == 0)
    assert (
        'pilotlight_abandoned_requests_total{namespace="default",revision="a-00001",service="a"} 1.0'
        in gateway.activator.metrics()
    )
    await become_ready(gateway, Model())
    assert (
        'pilotlight_start_seconds{namespace="default",revision="a-00001",service="a"}'
        in gateway.activator.metrics()
    )


async def test_an_http_1_0_client_gets_comments_too(gateway):
    gateway.deploy()
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    body = json.dumps(STREAM).encode()
    writer.write(
        b"POST /default/a/invoke HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        % len(body)
        + body
    )
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"200" in head.splitlines()[0]
    assert b"chunked" not in head
    assert (await reader.readuntil(b"\n\n")).startswith(b": warming")
    await become_ready(gateway, Model())
    assert (await reader.read()).endswith(b"data: [DONE]\n\n")
    writer.close()


async def test_the_openai_client_reads_a_held_stream_and_its_error(gateway):
    gateway.deploy()

    async def ask() -> str:
        url = f"{gateway.url}/default/a/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="x", max_retries=0) as client:
            stream = await client.chat.completions.create(**CHAT)
            return "".join([chunk.choices[0].delta.content async for chunk in stream])

    asking = asyncio.create_task(ask())
    await asyncio.sleep(0.5)
    await become_ready(gateway, Model())
    assert await asking == "hi"
    await gateway.ready()
    asking = asyncio.create_task(ask())
    await asyncio.sleep(0.5)
    gateway.activator.set_failure(KEY, StartFailure(KEY.name, "ExitCode1", "no such model", retryable=False))
    with pytest.raises(openai.APIError, match="no such model"):
        await asking


@contextlib.asynccontextmanager
async def nginx(folder: Path, upstream: int, read_timeout: str):
    """A real nginx in front of the gateway; its port."""
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    if not Path(program).exists():
        pytest.skip("nginx is not installed here; CI installs it")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    config = folder / "nginx.conf"
    paths = "".join(
        f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config.write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/errors;"
        f"events {{}} http {{ access_log off; {paths} server {{ listen 127.0.0.1:{port};"
        f"location / {{ proxy_pass http://127.0.0.1:{upstream}; proxy_read_timeout {read_timeout}; }} }} }}"
    )
    process = await asyncio.create_subprocess_exec(
        program, "-c", str(config), "-p", str(folder), "-e", str(folder / "errors")
    )
    try:
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                await asyncio.sleep(0.02)
        yield port
    finally:
        process.terminate()
        await process.wait()


@pytest.mark.clock
@pytest.mark.parametrize(("progress", "survives"), [("on", True), ("off", False)])
async def test_a_start_longer_than_the_read_timeout_of_nginx(gateway, tmp_path, progress, survives):
    """A fourth of the way from 5 s and 20 s; with comments off the same request is cut, so the test can fail."""
    gateway.deploy()
    async with nginx(tmp_path, gateway.port, "1s") as port:
        began = time.monotonic()
        asking = gateway.client.post(
            f"http://127.0.0.1:{port}/default/a/invoke",
            json=STREAM,
            headers={"X-Pilotlight-Progress": progress},
        )

        async def start() -> None:
            await asyncio.sleep(4)
            await become_ready(gateway, Model())

        starting = asyncio.create_task(start())
        async with asking as response:
            body = await response.read()
        if survives:
            assert response.status == 200
            assert body.endswith(b"data: [DONE]\n\n")
            assert time.monotonic() - began > 3
        else:
            assert response.status == 504
        await starting
