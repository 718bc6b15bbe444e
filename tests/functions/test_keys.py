"""Keys, tokens and limits, as a client of a stage meets them."""

import asyncio
import json
import secrets
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
import openai
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from fastapi import FastAPI
from fastapi.responses import JSONResponse

from functions.auth.api_keys import ID_BYTES, SALT_BYTES, SECRET_BYTES, new_key
from functions.contract import Delta, Final, StageReply, Usage
from functions.settings import FunctionSettings, SettingsError
from tests.functions.servers import echo, scripted, serving

HELLO = {"input": "hello"}
FORWARDED = {"X-Forwarded-For": "203.0.113.7"}


def make_key(folder: Path, name: str, **fields) -> str:
    """A key, with its record where a mounted Secret has it."""
    made = new_key(
        secrets.token_bytes(ID_BYTES + SALT_BYTES + SECRET_BYTES),
        created=datetime.now(UTC),
        **fields,
    )
    folder.mkdir(exist_ok=True)
    fresh = folder / f".{name}"
    fresh.write_text(made.record.to_json())
    fresh.replace(folder / name)
    return made.text


def guarded(folder: Path, **more) -> FunctionSettings:
    return FunctionSettings(auth="keys", keys_dir=folder, agent="support", **more)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def counting(request, _context):
    return StageReply(
        id=request.id,
        stage="s",
        output=request.input,
        usage=Usage(prompt_tokens=10, completion_tokens=20),
    )


async def status(http, url, headers, path="/invoke") -> int:
    async with http.post(f"{url}{path}", json=HELLO, headers=headers) as response:
        await response.read()
        return response.status


async def test_a_key_opens_a_stage_and_nothing_else_does(http, tmp_path):
    key = make_key(tmp_path, "ci")
    other = make_key(tmp_path / "elsewhere", "other")
    async with scripted(echo("s"), settings=guarded(tmp_path)) as (stage, url):
        for headers in (bearer(key), {"X-API-Key": key}, {"authorization": f"bearer {key}"}):
            assert await status(http, url, headers) == 200
        last = "0" if key[-1] != "0" else "1"
        wrong = [
            {},
            bearer(other),
            bearer(key[:-1] + last),
            bearer(key[:-1]),
            bearer(""),
            bearer("\u00e4" * 77),
            {"Authorization": f"Basic {key}"},
            {"X-API-Key": "plk_" + "0" * 12 + "_" + "0" * 64},
        ]
        for headers in wrong:
            async with http.post(f"{url}/invoke", json=HELLO, headers=headers) as response:
                problem = await response.json(content_type=None)
                assert (response.status, problem["status"]) == (401, 401), headers
                assert response.headers["WWW-Authenticate"] == "Bearer"
        assert len(stage.seen) == 3


@pytest.mark.parametrize(
    ("fields", "expected", "said"),
    [
        ({"expires": datetime.now(UTC) - timedelta(seconds=1)}, 401, "expired"),
        ({"expires": datetime.now(UTC) + timedelta(hours=1)}, 200, ""),
        ({"agents": ("billing",)}, 403, "for agent billing, not for support"),
        ({"agents": ("billing", "support")}, 200, ""),
        ({"scopes": ("metrics",)}, 403, "needs invoke"),
    ],
)
async def test_a_key_is_for_its_agents_scopes_and_time(http, tmp_path, fields, expected, said):
    key = make_key(tmp_path, "ci", **fields)
    async with (
        scripted(echo("s"), settings=guarded(tmp_path)) as (_, url),
        http.post(f"{url}/invoke", json=HELLO, headers=bearer(key)) as response,
    ):
        assert response.status == expected
        assert said in await response.text()


async def test_probes_are_open_and_metrics_are_guarded_only_behind_a_gateway(http, tmp_path):
    reader = make_key(tmp_path, "prometheus", scopes=("metrics",))
    caller = make_key(tmp_path, "ci")
    async with scripted(echo("s"), settings=guarded(tmp_path)) as (_, url):
        for path, headers, expected in [
            ("/healthz/live", FORWARDED, 200),
            ("/metrics", {}, 200),
            ("/metrics", FORWARDED, 401),
            ("/metrics", {"Forwarded": "for=203.0.113.7"}, 401),
            ("/metrics", FORWARDED | bearer(caller), 403),
            ("/metrics", FORWARDED | bearer(reader), 200),
            ("/openapi.json", FORWARDED, 401),
            ("/nowhere", {}, 401),
        ]:
            async with http.get(f"{url}{path}", headers=headers) as response:
                assert response.status == expected, (path, headers)


async def test_a_key_that_is_revoked_or_made_is_known_within_seconds_without_a_restart(http, tmp_path):
    key = make_key(tmp_path, "ci")
    async with scripted(echo("s"), settings=guarded(tmp_path)) as (_, url):
        assert await status(http, url, bearer(key)) == 200
        (tmp_path / "ci").unlink()
        new = make_key(tmp_path, "ci")
        async with asyncio.timeout(5):
            while await status(http, url, bearer(key)) != 401:
                await asyncio.sleep(0.05)
            assert await status(http, url, bearer(new)) == 200


@pytest.mark.clock
async def test_one_of_a_thousand_keys_is_revoked_under_load(http, tmp_path):
    keys = [make_key(tmp_path, f"key-{number}") for number in range(1000)]
    revoked = keys[500]
    async with scripted(echo("s"), settings=guarded(tmp_path)) as (_, url):
        ended = asyncio.Event()

        async def load(own: list[str]) -> set[int]:
            seen = set()
            while not ended.is_set():
                for key in own:
                    seen.add(await status(http, url, bearer(key)))
            return seen

        others = [key for key in keys if key != revoked]
        users = [asyncio.create_task(load(others[at::16][:5])) for at in range(16)]
        assert await status(http, url, bearer(revoked)) == 200
        (tmp_path / "key-500").unlink()
        async with asyncio.timeout(20):
            while await status(http, url, bearer(revoked)) != 401:
                await asyncio.sleep(0.05)
        ended.set()
        assert set().union(*await asyncio.gather(*users)) == {200}


async def test_requests_a_minute_are_right_within_one_under_64_connections(http, tmp_path):
    key = make_key(tmp_path, "ci", limits={"requestsPerMinute": 60})
    async with scripted(echo("s"), settings=guarded(tmp_path)) as (stage, url):
        began = time.monotonic()

        async def hammer() -> list[int]:
            return [await status(http, url, bearer(key)) for _ in range(5)]

        answers = [code for own in await asyncio.gather(*(hammer() for _ in range(64))) for code in own]
        came_back = time.monotonic() - began  # one a second
        assert set(answers) == {200, 429}
        assert 60 <= answers.count(200) <= 61 + came_back
        assert len(stage.seen) == answers.count(200)
        async with http.post(f"{url}/invoke", json=HELLO, headers=bearer(key)) as response:
            assert response.status == 429
            assert response.headers["X-RateLimit-Limit-Requests"] == "60"
            assert response.headers["X-RateLimit-Remaining-Requests"] == "0"
            assert response.headers["X-RateLimit-Reset-Requests"].endswith("s")
            assert 1 <= int(response.headers["Retry-After"]) <= 2


@pytest.mark.parametrize(
    ("limits", "reset"),
    [({"tokensPerMinute": 50}, "s"), ({"tokensPerDay": 50}, "h")],
)
async def test_tokens_are_counted_at_the_end_and_refuse_the_next_request(http, tmp_path, limits, reset):
    key = make_key(tmp_path, "ci", limits=limits)
    async with scripted(counting, settings=guarded(tmp_path)) as (_, url):
        assert [await status(http, url, bearer(key)) for _ in range(2)] == [200, 200]
        async with http.post(f"{url}/invoke", json=HELLO, headers=bearer(key)) as response:
            assert response.status == 429
            assert "50 tokens" in await response.text()
            assert response.headers["X-RateLimit-Remaining-Tokens"] == "0"
            assert reset in response.headers["X-RateLimit-Reset-Tokens"]


async def test_requests_at_the_same_time_are_limited_and_a_client_that_leaves_frees_its_place(http, tmp_path):
    key = make_key(tmp_path, "ci", limits={"inFlight": 1})
    entered, let_go = asyncio.Event(), asyncio.Event()

    async def waits(request, _context):
        entered.set()
        await let_go.wait()
        return StageReply(id=request.id, stage="s", output="")

    async with scripted(waits, settings=guarded(tmp_path)) as (_, url):
        first = asyncio.create_task(status(http, url, bearer(key)))
        await entered.wait()
        assert await status(http, url, bearer(key)) == 429
        first.cancel()
        let_go.set()
        async with asyncio.timeout(5):
            while await status(http, url, bearer(key)) == 429:
                await asyncio.sleep(0.01)


async def test_use_is_counted_by_key_and_team(http, tmp_path):
    key = make_key(tmp_path, "ci", team="web")
    async with scripted(counting, settings=guarded(tmp_path)) as (_, url):
        await status(http, url, bearer(key))
        await status(http, url, {})
        async with http.get(f"{url}/metrics") as response:
            page = await response.text()
    where = 'agent="support",{}key="ci",stage="model",team="web"'
    code, prompt = where.format('code="200",'), where.format('direction="prompt",')
    assert f"pilotlight_key_requests_total{{{code}}} 1.0" in page
    assert f"pilotlight_key_tokens_total{{{prompt}}} 10.0" in page
    assert 'pilotlight_unauthenticated_requests_total{agent="support",code="401",stage="model"} 1.0' in page
    assert key not in page


async def test_tokens_of_a_stream_that_its_client_leaves_are_counted_too(http, tmp_path):
    key = make_key(tmp_path, "ci", limits={"tokensPerMinute": 3})
    gone = asyncio.Event()

    async def tokens(_request, _context):
        try:
            for _ in range(5):
                yield Delta("x")
            await asyncio.Event().wait()
        finally:
            gone.set()
        yield Final(None)

    async with scripted(tokens, settings=guarded(tmp_path)) as (_, url):
        body = {**HELLO, "stream": True}
        async with http.post(f"{url}/invoke", json=body, headers=bearer(key)) as response:
            await response.content.readuntil(b"\n\n")
        await gone.wait()
        async with asyncio.timeout(5):
            while await status(http, url, bearer(key)) != 429:
                await asyncio.sleep(0.01)


async def test_stages_that_hold_the_token_are_answered_and_strangers_are_refused(http, tmp_path):
    token, before = secrets.token_hex(32), secrets.token_hex(32)
    (tmp_path / "current").write_text(token)
    (tmp_path / "previous").write_text(before)
    settings = FunctionSettings(auth="stages", stage_token_dir=tmp_path)
    async with scripted(echo("s"), settings=settings) as (stage, url):
        for given, expected in [(token, 200), (before, 200), (token[:-1], 401), ("", 401), (None, 401)]:
            headers = {} if given is None else {"X-Pilotlight-Stage-Token": given}
            assert await status(http, url, {**headers, "X-Pilotlight-Caller": "ci web"}) == expected
        assert (stage.seen[0].context.caller.name, stage.seen[0].context.caller.team) == ("ci", "web")
        (tmp_path / "previous").write_text(token)
        (tmp_path / "current").write_text(secrets.token_hex(32))
        (tmp_path / "previous").unlink()
        async with asyncio.timeout(5):
            while await status(http, url, {"X-Pilotlight-Stage-Token": token}) != 401:
                await asyncio.sleep(0.05)


async def test_a_stage_whose_token_is_not_there_yet_refuses_everyone(http, tmp_path):
    settings = FunctionSettings(auth="stages", stage_token_dir=tmp_path / "missing")
    async with scripted(echo("s"), settings=settings) as (_, url):
        for token in ("", "x" * 64):
            assert await status(http, url, {"X-Pilotlight-Stage-Token": token}) == 401


# JSON Web Tokens


class Issuer:
    """An OpenID Connect issuer with one key, which can be exchanged."""

    def __init__(self) -> None:
        self.rotate("first")
        self.fetched = 0
        self.url = ""

    def rotate(self, key_id: str) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.key_id = key_id

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/.well-known/openid-configuration")
        def discovery():
            return {"issuer": self.url, "jwks_uri": f"{self.url}/keys"}

        @app.get("/keys")
        def keys():
            self.fetched += 1
            public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(self.key.public_key()))
            return JSONResponse({"keys": [{**public, "kid": self.key_id, "use": "sig", "alg": "ES256"}]})

        return app

    def token(self, *, key=None, key_id=None, algorithm="ES256", **changes) -> str:
        claims = {
            "iss": self.url,
            "aud": "pilotlight",
            "sub": "ann",
            "team": "web",
            "exp": int(time.time()) + 300,
            **changes,
        }
        headers = {"kid": key_id or self.key_id}
        claims = {k: v for k, v in claims.items() if v is not None}
        return jwt.encode(claims, self.key if key is None else key, algorithm, headers)


async def test_tokens_of_the_issuer_are_accepted_and_its_keys_are_cached(http):
    issuer = Issuer()
    async with serving(issuer.app()) as issuer.url:
        settings = FunctionSettings(
            auth="jwt", jwt={"issuer": issuer.url, "audience": "pilotlight", "teamClaim": "team"}
        )
        async with scripted(echo("s"), settings=settings) as (stage, url):
            for _ in range(5):
                assert await status(http, url, bearer(issuer.token())) == 200
            assert issuer.fetched == 1
            assert (stage.seen[0].context.caller.name, stage.seen[0].context.caller.team) == ("ann", "web")
            stranger = ec.generate_private_key(ec.SECP256R1())
            for bad in [
                issuer.token(exp=int(time.time()) - 60),
                issuer.token(aud="another"),
                issuer.token(iss="https://another.example"),
                issuer.token(exp=None),
                issuer.token(sub=None),
                issuer.token(key=stranger),
                issuer.token(key=stranger, key_id="unknown"),
                issuer.token(key="a-secret-of-thirty-two-characters", algorithm="HS256"),
                jwt.encode({"sub": "ann"}, None, "none"),
                "no.token.atall",
            ]:
                assert await status(http, url, bearer(bad)) == 401, bad
            assert issuer.fetched == 1, "a forged token makes the stage ask the issuer at most twice a minute"


async def test_while_the_issuer_cannot_be_reached_a_token_is_answered_503(http):
    settings = FunctionSettings(auth="jwt", jwt={"issuer": "http://127.0.0.1:9", "audience": "pilotlight"})
    issuer = Issuer()
    async with (
        scripted(echo("s"), settings=settings) as (_, url),
        http.post(f"{url}/invoke", json=HELLO, headers=bearer(issuer.token())) as response,
    ):
        assert (response.status, response.headers["Retry-After"]) == (503, "5")


# settings


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "PILOTLIGHT_AUTH is not set, must be keys, jwt or none"),
        ({"PILOTLIGHT_AUTH": "keys"}, "PILOTLIGHT_KEYS_DIR is not set"),
        ({"PILOTLIGHT_AUTH": "jwt"}, "PILOTLIGHT_JWT is not set"),
        ({"PILOTLIGHT_AUTH": "stages"}, "PILOTLIGHT_STAGE_TOKEN_DIR is not set"),
        ({"PILOTLIGHT_AUTH": "open"}, "must be one of keys, jwt, none, stages"),
    ],
)
def test_a_stage_that_does_not_know_whom_to_answer_does_not_start(environ, said):
    with pytest.raises(SettingsError, match=said):
        FunctionSettings.parse(environ)


def test_none_can_be_written_out_on_a_cluster():
    environ = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "PILOTLIGHT_AUTH": "none"}
    assert FunctionSettings.parse(environ).auth == "none"


# clients


async def test_the_unchanged_openai_client_works_with_a_key_and_is_told_why_it_is_refused(tmp_path):
    from functions.http.app import create_app
    from functions.http.reverse_proxy import ReverseProxy
    from functions.stage import DirectRoute, StageRoutes
    from tests.functions.servers import ScriptedStage

    async def answer(_request, context, downstream):
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}
        body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        context.usage = Usage(prompt_tokens=1, completion_tokens=1)
        await downstream.send_whole(200, [(b"content-type", b"application/json")], json.dumps(body).encode())

    class Model(ScriptedStage):
        def routes(self, runtime):  # noqa: ARG002 - the protocol
            return StageRoutes(direct=(DirectRoute(ReverseProxy(answer, "model"), ("/v1/",)),))

    key = make_key(tmp_path, "ci", limits={"requestsPerMinute": 1})
    settings = guarded(tmp_path)
    async with serving(create_app(Model("model", "generate", echo("s")), settings)) as url:

        async def ask(api_key):
            async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=api_key, max_retries=0) as client:
                return await client.chat.completions.create(
                    model="m", messages=[{"role": "user", "content": "x"}]
                )

        assert (await ask(key)).choices[0].message.content == "hi"
        with pytest.raises(openai.AuthenticationError) as refused:
            await ask("sk-wrong")
        assert (refused.value.code, refused.value.type) == ("invalid_api_key", "authentication_error")
        assert "unknown or was revoked" in refused.value.message
        with pytest.raises(openai.RateLimitError) as limited:
            await ask(key)
        assert limited.value.code == "rate_limit_exceeded"
        assert int(limited.value.response.headers["retry-after"]) > 0


def test_the_record_of_a_key_does_not_contain_it(tmp_path):
    key = make_key(tmp_path, "ci")
    record = (tmp_path / "ci").read_text()
    assert key.rpartition("_")[2] not in record
    assert [path.name for path in tmp_path.iterdir()] == ["ci"]
