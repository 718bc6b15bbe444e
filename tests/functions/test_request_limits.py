"""What a stage refuses before it works: heads and bodies that are too large or too slow, and other sites' pages."""

import asyncio
import json

import pytest
from aiohttp import web

from functions.contract import MAX_BODY_BYTES
from functions.http.app import create_app
from functions.settings import FunctionSettings, SettingsError
from functions.stages.generate import build
from tests.functions.servers import echo, scripted, serving, stage_process, wait_ready

JSON = {"Content-Type": "application/json"}
INPUT = b'{"input": "x"}'
START = b"POST /invoke HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


async def said(port: int, *pieces: bytes) -> tuple[int, dict]:
    """Status and problem of the answer, after which the server ends the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        answer = b""
        while data := await asyncio.wait_for(reader.read(65536), 20):
            answer += data
    finally:
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    return int(head.split()[1]), json.loads(body)


@pytest.fixture(scope="module")
def limited(tmp_path_factory):
    with stage_process(
        "postprocess",
        tmp_path_factory.mktemp("limited"),
        PILOTLIGHT_HEAD_SECONDS="0.5",
        PILOTLIGHT_HEAD_BYTES="4096",
        PILOTLIGHT_BODY_SECONDS="0.5",
    ) as process:
        yield process


@pytest.mark.parametrize(
    ("pieces", "status", "words"),
    [
        ((b"POST /invoke HTTP/1.1\r\nHost: x\r\nX: ",), 408, "head did not arrive within 0.5 s"),
        ((b"POST /invoke HTTP/1.1\r\nX: " + b"a" * 5000 + b"\r\n\r\n",), 431, "4096"),
        ((b"POST /invoke HTTP/1.1\r\nX: ", b"a" * 200_000), 431, "4096"),
        ((b"POST /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",), 414, "16384"),
        ((START + b"Content-Length: 10\r\n\r\n12345",), 408, "body did not arrive within 0.5 s"),
        ((START + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n",), 408, "body did not arrive"),
        ((START + b"Host: y\r\n\r\n",), 400, "Host"),
    ],
)
async def test_a_head_or_body_beyond_the_limits_is_answered_and_the_connection_ends(
    http, limited, pieces, status, words
):
    await wait_ready(http, limited.url)
    answered, problem = await said(limited.port, *pieces)
    assert (answered, problem["status"]) == (status, status)
    assert words in problem["detail"]


async def test_a_long_body_in_many_pieces_is_answered(http, tmp_path):
    text = "y" * 900_000
    body = json.dumps({"input": text}).encode()
    with stage_process("postprocess", tmp_path, PILOTLIGHT_HEAD_BYTES="1024") as process:
        await wait_ready(http, process.url)
        reader, writer = await asyncio.open_connection("127.0.0.1", process.port)
        writer.write(START + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body))
        for at in range(0, len(body), 100_000):
            writer.write(body[at : at + 100_000])
            await writer.drain()
        answer = await asyncio.wait_for(reader.read(-1), 20)
        writer.close()
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["output"] == text


@pytest.mark.parametrize("length", [str(MAX_BODY_BYTES + 1), "9" * 18])
async def test_a_length_past_the_limit_is_refused_unread(length):
    async with scripted(echo("s")) as (stage, url):
        port = int(url.rpartition(":")[2])
        status, problem = await said(port, START + f"Content-Length: {length}\r\n\r\n".encode())
    assert status == 413
    assert str(MAX_BODY_BYTES) in problem["detail"]
    assert stage.seen == []


@pytest.mark.parametrize("deadline", ["1e300", "1e18", "604801", "inf", "9" * 40, "1_000", ""])
async def test_a_deadline_that_no_timer_can_keep_is_refused(http, deadline):
    headers = {"X-Pilotlight-Deadline": deadline}
    async with (
        scripted(echo("s")) as (stage, url),
        http.post(f"{url}/invoke", json={"input": "x"}, headers=headers) as response,
    ):
        assert response.status == 400
        assert "up to 604800" in (await response.json(content_type=None))["detail"]
        assert stage.seen == []


async def test_the_longest_deadline_is_taken(http):
    headers = {"X-Pilotlight-Deadline": "604800"}
    async with (
        scripted(echo("s")) as (stage, url),
        http.post(f"{url}/invoke", json={"input": "x"}, headers=headers) as response,
    ):
        assert response.status == 200
        assert stage.seen[0].context.remaining() == pytest.approx(604800, abs=60)


FOREIGN = "https://evil.example"


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("Application/JSON; charset=utf-8", 200),
        (None, 415),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("application/jsonp", 415),
    ],
)
async def test_only_json_is_json(http, content_type, status):
    headers = {} if content_type is None else {"Content-Type": content_type}
    async with (
        scripted(echo("s")) as (_, url),
        http.post(
            f"{url}/invoke", data=INPUT, headers=headers, skip_auto_headers=["Content-Type"]
        ) as response,
    ):
        assert response.status == status


@pytest.mark.parametrize(
    ("allowed", "origin", "status"),
    [
        ((), None, 200),
        ((), "same", 200),
        ((), FOREIGN, 403),
        ((), "null", 403),
        (("https://app.example",), FOREIGN, 403),
        (("https://app.example",), "https://app.example.evil.example", 403),
        (("https://app.example",), "https://app.example", 200),
        (("*",), FOREIGN, 200),
    ],
)
async def test_pages_of_other_origins_are_refused_unless_allowed(http, allowed, origin, status):
    async with scripted(echo("s"), settings=FunctionSettings(allowed_origins=allowed)) as (stage, url):
        headers = {} if origin is None else {"Origin": url if origin == "same" else origin}
        async with http.post(f"{url}/invoke", json={"input": "x"}, headers=headers) as response:
            assert response.status == status
            if status == 403:
                problem = await response.json(content_type=None)
                assert origin in problem["detail"]
                assert "PILOTLIGHT_ALLOWED_ORIGINS" in problem["detail"]
                assert stage.seen == []


async def test_a_page_of_an_allowed_origin_gets_what_its_browser_asks_for(http):
    origin = "https://app.example"
    preflight = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    async with scripted(echo("s"), settings=FunctionSettings(allowed_origins=(origin,))) as (stage, url):
        for path in ("/invoke", "/v1/chat/completions"):
            async with http.options(f"{url}{path}", headers=preflight) as response:
                assert response.status == 200
                assert response.headers["Access-Control-Allow-Origin"] == origin
                assert "content-type" in response.headers["Access-Control-Allow-Headers"]
        async with http.post(f"{url}/invoke", json={"input": "x"}, headers={"Origin": origin}) as response:
            assert response.headers["Access-Control-Allow-Origin"] == origin
            assert response.status == 200
        async with http.options(f"{url}/invoke", headers={**preflight, "Origin": FOREIGN}) as response:
            assert response.status == 400
            assert "Access-Control-Allow-Origin" not in response.headers
        assert len(stage.seen) == 1


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/plain", "Origin": FOREIGN}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/json", "Origin": FOREIGN}, 403),
        ({"Content-Type": "application/json"}, 200),
    ],
)
async def test_a_page_cannot_spend_the_stages_api_key(http, monkeypatch, headers, status):
    monkeypatch.setenv("OPENAI_API_KEY", "key-of-the-stage")
    asked = []

    async def completions(request: web.Request) -> web.Response:
        asked.append(request.headers["Authorization"])
        return web.json_response({"id": "c", "choices": []})

    api = web.Application()
    api.router.add_post("/v1/chat/completions", completions)
    runner = web.AppRunner(api)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    settings = FunctionSettings(engine="openai", engine_args={"base-url": base_url}, model_name="m")
    try:
        async with serving(create_app(build(settings), settings)) as url:
            await wait_ready(http, url)
            async with http.post(
                f"{url}/v1/chat/completions", data=b'{"messages": []}', headers=headers
            ) as response:
                assert response.status == status
    finally:
        await runner.cleanup()
    assert asked == (["Bearer key-of-the-stage"] if status == 200 else [])


async def test_a_route_of_the_framework_has_the_same_limits(http):
    settings = FunctionSettings(body_seconds=0.3)
    async with scripted(echo("s"), settings=settings) as (_, url):
        port = int(url.rpartition(":")[2])
        start = b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        status, _ = await said(port, start + b"Content-Length: 10\r\n\r\n1")
    assert status == 408


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("PILOTLIGHT_ALLOWED_ORIGINS", "app.example", "https://app.example"),
        ("PILOTLIGHT_ALLOWED_ORIGINS", "https://app.example/page", "origin"),
        ("PILOTLIGHT_HEAD_SECONDS", "0", "more than 0"),
        ("PILOTLIGHT_BODY_SECONDS", "soon", "seconds"),
        ("PILOTLIGHT_HEAD_BYTES", "10", "1024"),
    ],
)
def test_a_bad_limit_says_what_would_be_right(variable, value, words):
    with pytest.raises(SettingsError) as caught:
        FunctionSettings.parse({variable: value})
    assert variable in str(caught.value)
    assert words in str(caught.value)


def test_allowed_origins_are_a_list():
    given = {"PILOTLIGHT_ALLOWED_ORIGINS": "https://a.example, http://localhost:3000/"}
    assert FunctionSettings.parse(given).allowed_origins == ("https://a.example", "http://localhost:3000")
