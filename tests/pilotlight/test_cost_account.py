"""`pilotlight cost --by`: a Service's cost is divided by what its callers used, and nothing is lost or added."""

import secrets
import signal
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.auth.api_keys import ID_BYTES, SALT_BYTES, SECRET_BYTES, new_key
from pilotlight.caller_use import of_ended_replicas
from pilotlight.cost_account import CallerUse, ServiceCost, shares
from tests.functions.servers import stage_process, wait_ready

GENERATE = ServiceCost("default", "generate-a", "a", Decimal(90), "USD")
CLEAN = ServiceCost("default", "clean-a", "a", Decimal(10), "USD")


def use(service="generate-a", key="ann", team="web", requests=1, tokens=0, *, namespace="default"):
    return CallerUse(namespace, service, key, team, requests, tokens)


@pytest.mark.parametrize(
    ("by", "uses", "expected"),
    [
        ("service", [], {"default/generate-a": 90, "default/clean-a": 10}),
        ("agent", [], {"default/a": 100}),
        ("key", [], {"(no key)": 100}),
        ("key", [use(tokens=30), use(key="bob", tokens=60)], {"ann": 30, "bob": 60, "(no key)": 10}),
        ("key", [use(requests=3), use(key="bob", requests=1), use("clean-a")], {"ann": 77.5, "bob": 22.5}),
        (
            "team",
            [use(tokens=1), use(key="bob", team="", tokens=1), use("clean-a")],
            {"web": 55, "(no team)": 45},
        ),
        ("key", [use(namespace="other", key="eve", requests=5)], {"(no key)": 100, "eve": None}),
    ],
)
def test_a_cost_is_divided_by_tokens_else_by_requests(by, uses, expected):
    found = {line.name: line.amount for line in shares([GENERATE, CLEAN], uses, by)}
    assert found == {
        name: None if amount is None else Decimal(str(amount)) for name, amount in expected.items()
    }


def test_currencies_are_not_added():
    euro = ServiceCost("default", "clean-a", "a", Decimal(10), "EUR")
    lines = shares([GENERATE, euro], [], "agent")
    assert [(line.name, line.amount, line.currency) for line in lines] == [
        ("default/a", 90, "USD"),
        ("default/a", 10, "EUR"),
    ]


NAMES = st.sampled_from(["ann", "bob", "eve"])
USES = st.builds(
    use, st.sampled_from(["generate-a", "clean-a"]), NAMES, NAMES, st.integers(0, 9), st.integers(0, 999)
)


@given(st.lists(USES, max_size=20), st.sampled_from(["service", "pool", "agent", "key", "team", "reason"]))
def test_the_shares_add_up_to_the_whole(uses, by):
    total = sum(line.amount or Decimal(0) for line in shares([GENERATE, CLEAN], uses, by))
    assert abs(total - 100) < Decimal("1e-20")


async def test_what_a_replica_counted_is_not_lost_when_it_ends(tmp_path: Path):
    keys, logs = tmp_path / "keys", tmp_path / "logs" / "default"
    keys.mkdir()
    logs.mkdir(parents=True)
    random = secrets.token_bytes(ID_BYTES + SALT_BYTES + SECRET_BYTES)
    made = new_key(random, created=datetime.now(UTC), team="web")
    (keys / "ci").write_text(made.record.to_json())
    variables = {"PILOTLIGHT_AUTH": "keys", "PILOTLIGHT_KEYS_DIR": str(keys), "K_SERVICE": "clean-a"}
    with stage_process("postprocess", logs, **variables) as stage:
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {made.text}"}) as http:
            await wait_ready(http, stage.url)
            for _ in range(2):
                async with http.post(f"{stage.url}/invoke", json={"input": "x"}) as response:
                    assert response.status == 200
        stage.process.send_signal(signal.SIGTERM)
        assert stage.wait() == 0
    assert of_ended_replicas(tmp_path / "logs") == [CallerUse("default", "clean-a", "ci", "web", 2.0, 0.0)]
    assert made.text not in stage.log.read_text()
