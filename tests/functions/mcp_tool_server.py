"""A tool server made with the official SDK: `python mcp_tool_server.py PORT FOLDER REVISION`.

REVISION is `today` (each call stands alone) or `sessions` (it answers `server/discover` as older servers do, so
that a client begins a session). What it gets is a line of JSON in FOLDER/seen. While FOLDER/hold is there, `slow`
waits.
"""

import asyncio
import json
import sys
from pathlib import Path

import uvicorn
from mcp.server.mcpserver import Context, Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations

PORT, FOLDER, REVISION = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
server = MCPServer("library")


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool()
def effect(what: str, context: Context) -> str:
    """Do something once."""
    headers = dict(context.headers or {})
    meta = dict(context.request_context.meta or {})
    note("effects", {"what": what, "key": headers.get("idempotency-key"), "meta": meta})
    return f"done: {what}"


@server.tool()
def broken() -> str:
    """Fail."""
    raise ToolError("the shelf is empty")


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
async def slow() -> str:
    """Wait."""
    note("effects", {"what": "slow"})
    while (FOLDER / "hold").exists():
        await asyncio.sleep(0.02)
    return "at last"


@server.tool()
def big(size: int) -> str:
    """Answer much."""
    return "x" * size


@server.tool()
def picture() -> Image:
    """Answer with a picture."""
    return Image(data=b"\x89PNG", format="png")


def note(name, value):
    with (FOLDER / name).open("a") as file:
        file.write(json.dumps(value) + "\n")


def application():
    inner = server.streamable_http_app(json_response=REVISION == "json", host="127.0.0.1")

    async def app(scope, receive, send):
        if scope["type"] != "http":
            await inner(scope, receive, send)
            return
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = {key.decode(): value.decode() for key, value in scope["headers"]}
        method = json.loads(body).get("method") if body else None
        note("seen", {"http": scope["method"], "method": method, "headers": headers, "path": scope["path"]})
        if headers.get("authorization", "Bearer secret") != "Bearer secret":
            await send({"type": "http.response.start", "status": 401, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        if method == "server/discover" and REVISION == "sessions":
            await send({"type": "http.response.start", "status": 400, "headers": []})
            await send({"type": "http.response.body", "body": b"Bad Request"})
            return
        given = False

        async def whole():
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await inner(scope, whole, send)

    return app


if __name__ == "__main__":
    uvicorn.run(application(), host="127.0.0.1", port=PORT, log_level="warning")
