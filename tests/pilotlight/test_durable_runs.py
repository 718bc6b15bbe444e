"""Durable runs in the agent file, in what it compiles to, and on the command line; each caller sees its own."""

import asyncio
import json

import pytest
import yaml
from typer.testing import CliRunner

from pilotlight.agent import AgentFileError
from pilotlight.agent_reader import load_agent
from pilotlight.cli import run as run_command
from pilotlight.compile import compile_agent, compile_for_cluster
from pilotlight.compile_runs import unfit_for_a_cluster
from pilotlight.runs import RunError
from tests.functions.run_servers import counting_tool, orchestrate_here, runs_config, submit
from tests.functions.test_keys import bearer, make_key

POSTGRES = {"store": "postgres", "urlSecret": {"secret": "support-runs"}, "approve": ["refund"]}


def agent(tmp_path, runs, **front):
    path = tmp_path / "agent.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "pilotlight.dev/v1alpha1",
                "kind": "Agent",
                "metadata": {"name": "support", "namespace": "team"},
                "spec": {
                    "image": "registry/functions:1",
                    "auth": "keys",
                    "stages": [
                        {"name": "front", "kind": "orchestrate", "config": {"runs": runs}, **front},
                        {"name": "clean", "kind": "postprocess"},
                    ],
                },
            }
        )
    )
    return load_agent(path)


def test_on_a_cluster_the_address_comes_from_a_secret_and_a_deployment_wakes_the_runs(tmp_path):
    read = agent(tmp_path, POSTGRES)
    assert unfit_for_a_cluster(read) is None
    front = compile_agent(read)[0]["spec"]["template"]["spec"]
    (waker,) = [obj for obj in compile_for_cluster(read) if obj["kind"] == "Deployment"]
    pod = waker["spec"]["template"]["spec"]
    for spec in (front, pod):
        (container,) = spec["containers"]
        env = {entry["name"]: entry["value"] for entry in container["env"]}
        assert env["PILOTLIGHT_RUNS_URL_FILE"] == "/var/run/pilotlight/runs-url/url"
        assert json.loads(env["PILOTLIGHT_STAGE_CONFIG"]) == {
            "runs": {"store": "postgres", "approve": ["refund"]}
        }
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts["pilotlight-runs-url"] == "/var/run/pilotlight/runs-url"
        assert "pilotlight-stage-token" in mounts
        secrets = {volume["name"]: volume["secret"]["secretName"] for volume in spec["volumes"]}
        assert secrets["pilotlight-runs-url"] == "support-runs"
    assert waker["metadata"]["name"] == "support-runs-waker"
    assert json.loads(env["PILOTLIGHT_STAGES"])[0]["url"] == "http://front-support.team.svc.cluster.local"
    assert env["PILOTLIGHT_AUTH"] == "keys"
    assert pod["containers"][0]["image"] == "registry/functions:1"
    assert pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"]


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ({"store": "postgres"}, "config.runs.urlSecret is missing"),
        ({"store": "sqlite", "urlSecret": {"secret": "x"}}, "config.runs.urlSecret is for store postgres"),
        ({"store": "oracle"}, "config.runs.store = 'oracle': must be 'sqlite' or 'postgres'"),
        ({"store": "sqlite", "leases": 3}, "config.runs.leases = 3: is not known here"),
        ("sqlite", "config.runs = 'sqlite', must be a mapping"),
    ],
)
def test_what_cannot_work_is_refused_when_the_file_is_read(tmp_path, runs, expected):
    with pytest.raises(AgentFileError) as raised:
        agent(tmp_path, runs)
    assert expected in str(raised.value)
    assert "agent.yaml:" in str(raised.value)


def test_a_file_for_one_machine_is_refused_on_a_cluster(tmp_path):
    assert "scaling.max is no limit, must be 1" in unfit_for_a_cluster(agent(tmp_path, {"store": "sqlite"}))
    one = agent(tmp_path, {"store": "sqlite"}, scaling={"max": 1})
    assert "must have path on a cluster" in unfit_for_a_cluster(one)
    with_path = {"store": "sqlite", "path": "/data/runs.sqlite"}
    at_zero = agent(tmp_path, with_path, scaling={"max": 1})
    assert "must have scaling.min 1 on a cluster" in str(unfit_for_a_cluster(at_zero))
    assert unfit_for_a_cluster(agent(tmp_path, with_path, scaling={"min": 1, "max": 1})) is None
    assert [obj["kind"] for obj in compile_for_cluster(one)] == ["NetworkPolicy"]


async def test_callers_see_their_own_runs_alone_over_http_and_on_the_command_line(tmp_path):
    import aiohttp

    keys = tmp_path / "keys"
    ann, bob = make_key(keys, "ann"), make_key(keys, "bob")
    config = runs_config(tmp_path / "runs.sqlite", approve=["two"])

    async def command(key, *arguments):
        return await asyncio.to_thread(
            CliRunner().invoke, run_command.app, [*arguments, "--key", key], catch_exceptions=True
        )

    with counting_tool(tmp_path / "tool") as tool:
        async with (
            aiohttp.ClientSession() as http,
            orchestrate_here(tool, config, auth="keys", keys_dir=keys, agent="support") as url,
        ):
            assert (await submit(http, url))[0] == 401
            status, run, _ = await submit(http, url, "of ann", Idempotency_Key="k", **bearer(ann))
            assert status == 202
            other = (await submit(http, url, "of bob", Idempotency_Key="k", **bearer(bob)))[1]["id"]
            assert other != run["id"], "a key of one caller is no key of another"
            for path in ("", "/events"):
                async with http.get(f"{url}/runs/{run['id']}{path}", headers=bearer(bob)) as response:
                    assert response.status == 404
            for action in ("cancel", "resume", "approve"):
                async with http.post(
                    f"{url}/runs/{run['id']}/{action}", json={}, headers=bearer(bob)
                ) as response:
                    assert response.status == 404
            async with http.post(f"{url}/runs/{run['id']}/drive", json={}, headers=bearer(bob)) as response:
                assert response.status == 403

            listed = await command(ann, "ls", url, "--json")
            assert [one["id"] for one in json.loads(listed.output)["runs"]] == [run["id"]]
            while "approval of two" not in (shown := await command(ann, "show", url, run["id"])).output:
                assert shown.exit_code == 0, shown.output
            assert "waiting" in (await command(ann, "ls", url)).output
            foreign = await command(bob, "approve", url, run["id"])
            assert isinstance(foreign.exception, RunError)
            assert "404" in str(foreign.exception)
            assert (await command(ann, "approve", url, run["id"])).exit_code == 0
            assert "of ann one two three four five" in (await ended(command, ann, url, run["id"])).output
            events = await command(ann, "events", url, run["id"])
            assert events.output.splitlines()[-1].startswith("reply ")
            refused = await command(bob, "approve", url, other, "--refuse", "--comment", "too dear")
            assert refused.exit_code == 0, refused.output
            assert "too dear" in (await ended(command, bob, url, other)).output


async def ended(command, key, url, run_id):
    while True:
        shown = await command(key, "show", url, run_id)
        assert shown.exit_code == 0, shown.output
        if "succeeded" in shown.output or "failed" in shown.output:
            return shown
