"""Limits on a request to the API: its head's size and time, and its body's."""

import asyncio
import json
import ssl
from pathlib import Path

import pytest
import yaml

from knative.local.apiserver.api import bodies
from knative.local.platform.platform import Platform
from tests.knative.platform.api.raw_http import CMS, Raw
from tests.knative.platform.conftest import platform_config
from transport.request_head import HeadLimits

LIMITS = HeadLimits(target_bytes=1000, fields_bytes=4000, timeout_s=0.3)


async def answer(platform: Platform, sent: bytes, *, tls: bool) -> tuple[bytes, dict]:
    """Status line and body of the answer to some bytes, after which the server has ended the connection."""
    context = ssl.create_default_context(cafile=platform.config.state_dir / "api.crt") if tls else None
    port = int(platform.api_url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        writer.write(sent)
        await writer.drain()
        head, _, body = (await asyncio.wait_for(reader.read(), 10)).partition(b"\r\n\r\n")
    finally:
        writer.close()
    return head.partition(b"\r\n")[0], json.loads(body)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /" + b"a" * 1000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 4000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: loc", 408),
    ],
)
async def test_a_head_beyond_the_limits_is_answered_with_a_status(tmp_path: Path, sent, status, tls):
    async with Platform(platform_config(tmp_path, head_limits=LIMITS)) as platform:
        line, body = await answer(platform, sent, tls=tls)
    assert line.startswith(f"HTTP/1.1 {status} ".encode())
    assert (body["kind"], body["code"]) == ("Status", status)


@pytest.mark.parametrize("sent", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01"], ids=["silent", "byte", "hello"])
async def test_a_connection_that_does_not_open_is_closed(tmp_path: Path, sent):
    async with Platform(platform_config(tmp_path, head_limits=LIMITS)) as platform:
        port = int(platform.api_url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()


async def test_a_body_that_is_declared_too_large_is_refused_before_it_comes(raw: Raw):
    port = int(raw.base.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = [
        f"POST {CMS} HTTP/1.1",
        "Host: localhost",
        *(f"{name}: {value}" for name, value in raw.headers.items()),
    ]
    lines += ["Content-Type: application/json", f"Content-Length: {bodies.MAX_BYTES + 1}", "", ""]
    writer.write("\r\n".join(lines).encode())
    assert (await asyncio.wait_for(reader.readline(), 10)).startswith(b"HTTP/1.1 413 ")
    writer.close()


async def test_a_body_that_does_not_come_is_408(tmp_path: Path):
    async with Platform(platform_config(tmp_path, api_body_timeout_s=0.2)) as platform:
        user = yaml.safe_load(platform.kubeconfig.read_text())["users"][0]["user"]
        lines = [f"POST {CMS} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {user['token']}"]
        lines += ["Connection: close", "Content-Length: 100", "", "{"]
        line, body = await answer(platform, "\r\n".join(lines).encode(), tls=False)
    assert line.startswith(b"HTTP/1.1 408 ")
    assert body["message"] == "the request body was not complete within 0.2 s"
