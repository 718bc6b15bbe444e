"""`pilotlight invoke` against stages as they answer: piece by piece, or whole."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from pilotlight import invoke


@asynccontextmanager
async def stage(*pieces: bytes) -> AsyncIterator[str]:
    """The URL of a server that answers every request with this stream."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
        return response

    app = web.Application()
    app.router.add_post("/invoke", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/invoke"
    finally:
        await runner.cleanup()


def event(name: str, data: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


async def call(url: str, on_text: Callable[[str], None] | None = None) -> invoke.InvokeResult:
    async with invoke.client() as session:
        return await invoke.stream(session, invoke.Call(url, "hello"), on_text=on_text)


@pytest.mark.parametrize(
    ("output", "text"),
    [
        ("normal", "normal"),
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "a\nb"),
        ("", ""),
    ],
)
async def test_a_reply_without_pieces_is_printed_whole(output: Any, text: str):
    shown: list[str] = []
    async with stage(event("reply", {"output": output})) as url:
        result = await call(url, shown.append)
    assert result.text == text
    assert "".join(shown) == text
    assert 0 < result.ttft_s <= result.e2e_s


async def test_pieces_are_printed_as_they_come_and_not_again_at_the_end():
    shown: list[str] = []
    stream = event("delta", {"text": "a"}) + event("delta", {"text": "b"}) + event("reply", {"output": "ab"})
    async with stage(*(stream[at : at + 7] for at in range(0, len(stream), 7))) as url:
        result = await call(url, shown.append)
    assert shown == ["a", "b"]
    assert result.text == "ab"
    assert 0 < result.ttft_s <= result.e2e_s


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (event("delta", {"text": "a"}), "ended without a reply"),
        (event("error", {"status": 503, "title": "Gone", "detail": "no more"}), "503 Gone: no more"),
        (b"data: {\n\n", "not a stage's stream"),
        (b"data: [1]\n\n", "no JSON object"),
    ],
)
async def test_a_stream_that_does_not_end_in_a_reply_is_an_error_that_says_why(sent: bytes, said: str):
    async with stage(sent) as url:
        with pytest.raises(invoke.InvokeError, match=said):
            await call(url)
