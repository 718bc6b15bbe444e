"""The members of uvicorn that are no public API and that this project overrides, calls or sets.

`pyproject.toml` caps uvicorn's version. Whoever raises the cap finds here what has moved.
"""

import asyncio
import inspect
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import uvicorn
from packaging.requirements import Requirement
from uvicorn import _types as types
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

ROOT = Path(__file__).parents[2]

METHODS = {
    HttpToolsProtocol: {
        "_start_asgi_task": ["cycle", "app"],
        "_unset_keepalive_if_required": [],
        "_unsupported_upgrade_warning": [],
        "connection_lost": ["exc"],
        "connection_made": ["transport"],
        "data_received": ["data"],
        "on_body": ["body"],
        "on_header": ["name", "value"],
        "on_headers_complete": [],
        "on_message_begin": [],
        "on_message_complete": [],
        "on_url": ["url"],
        "pause_writing": [],
        "resume_writing": [],
        "send_400_response": ["msg"],
    },
    RequestResponseCycle: {"run_asgi": ["app"]},
    uvicorn.Server: {
        "capture_signals": [],
        "main_loop": [],
        "on_tick": ["counter"],
        "shutdown": ["sockets"],
        "startup": ["sockets"],
    },
}


def test_the_version_is_capped_and_the_installed_one_is_within():
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (required,) = (found for line in dependencies if (found := Requirement(line)).name == "uvicorn")
    assert any(bound.operator == "<" for bound in required.specifier)
    assert version("uvicorn") in required.specifier


@pytest.mark.parametrize(
    ("owner", "name", "parameters"),
    [(owner, name, parameters) for owner, methods in METHODS.items() for name, parameters in methods.items()],
)
def test_a_method_takes_what_it_is_given(owner: type, name: str, parameters: list[str]):
    given = list(inspect.signature(getattr(owner, name)).parameters)
    assert given == ["self", *parameters]


async def test_a_connection_and_its_cycle_have_the_attributes_that_are_used():
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    config = uvicorn.Config(app, lifespan="off", log_config=None)
    protocol = HttpToolsProtocol(config, ServerState(), {}, asyncio.get_running_loop())
    assert protocol.cycle is None
    server = await asyncio.get_running_loop().create_server(lambda: protocol, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        await reader.read()
        writer.close()
    for name in ("app_state", "flow", "headers", "loop", "pipeline", "scope", "tasks", "transport", "url"):
        assert getattr(protocol, name) is not None, name
    cycle = protocol.cycle
    for name in (
        "chunked_encoding",
        "disconnected",
        "expected_content_length",
        "keep_alive",
        "message_event",
        "response_complete",
        "scope",
        "transport",
    ):
        assert hasattr(cycle, name), name
    assert cycle.response_complete is True
    assert protocol.headers[0] == (b"host", b"a")


def test_the_type_of_an_application_has_its_name():
    assert types.ASGI3Application
