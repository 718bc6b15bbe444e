"""Each stage is fuzzed by its own description: no request gets in without a key, none with one breaks it."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import requests
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, settings
from hypothesis import given as for_all
from hypothesis import strategies as st

from functions.http.app import StageApp, create_app
from functions.settings import FunctionSettings, StageAddress
from functions.stages import orchestrate, postprocess
from tests.functions.servers import ScriptedStage, echo, free_port
from tests.functions.test_keys import guarded, make_key

OPEN = {"/healthz/live", "/healthz/ready", "/health", "/ping", "/version"}
"""Answered to anyone."""
QUICK = settings(
    max_examples=25,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def build(kind: str, given: FunctionSettings):
    if kind == "generate":
        return ScriptedStage("model", "generate", echo("model"))
    return {"postprocess": postprocess, "orchestrate": orchestrate}[kind].build(given)


@contextmanager
def serving(app: StageApp) -> Iterator[str]:
    """In a thread of its own: schemathesis calls from this one."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, access_log=False))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    try:
        while not server.started:
            thread.join(0.01)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)


def refuses_strangers(operation, credentials, send) -> None:
    @QUICK
    @for_all(case=operation.as_strategy(), headers=credentials)
    def check(case, headers):
        for name in ("Authorization", "X-API-Key"):
            case.headers.pop(name, None)
        status = send(case, headers).status_code
        assert status in {200, 503} if operation.path in OPEN else status == 401

    check()


def serves_callers(operation, headers, send) -> None:
    @QUICK
    @for_all(case=operation.as_strategy())
    def check(case):
        response = send(case, headers)
        assert response.status_code != 401
        # Behind orchestrate is nobody, which is no fault of the request.
        nobody = response.status_code == 503 and response.json().get("stage") == "m"
        assert response.status_code < 500 or operation.path in OPEN or nobody, response.text

    check()


@pytest.mark.parametrize("kind", ["generate", "postprocess", "orchestrate"])
def test_a_stage_is_closed_without_a_key_and_whole_with_one(tmp_path, kind):
    key = make_key(tmp_path, "ci")
    given = guarded(tmp_path, stages=(StageAddress("m", "generate", "http://127.0.0.1:9"),))
    app = create_app(build(kind, given), given)
    described = app.api.openapi()
    if kind == "orchestrate":  # what is behind it does not answer, which is no matter of the door
        described["paths"].pop("/invoke")
    operations = [
        operation.ok() for operation in schemathesis.openapi.from_dict(described).get_all_operations()
    ]
    assert {operation.path for operation in operations} >= {"/healthz/live", "/metrics"}
    credentials = st.one_of(
        st.just({}),
        st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=90).map(
            lambda text: {"Authorization": f"Bearer {text}"}
        ),
        st.binary(max_size=40).map(lambda raw: {"X-API-Key": raw.hex()}),
        st.just({"X-API-Key": key[:-1], "Authorization": "Basic eDp5"}),
        st.just({"X-Pilotlight-Stage-Token": "x" * 64}),
        st.just({"X-Pilotlight-Caller": "ci"}),
    )
    with serving(app) as url, requests.Session() as session:

        def send(case, headers):
            headers = {"X-Forwarded-For": "203.0.113.7", **headers}
            return case.call(base_url=url, session=session, headers=headers, timeout=10)

        for operation in operations:
            refuses_strangers(operation, credentials, send)
            serves_callers(operation, {"Authorization": f"Bearer {key}"}, send)
        again = session.post(
            f"{url}/invoke", json={"input": "x", "segment": None}, headers={"X-API-Key": key}
        )
        assert again.status_code in {200, 422, 503}, "it still answers"
