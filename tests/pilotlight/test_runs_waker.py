"""The rendered waker, as a cluster runs it: its own command, variables and Secrets, against runs in Postgres."""

import base64
import subprocess
import sys

import aiohttp
import pytest

from functions.orchestration.runs.database import Database
from functions.orchestration.runs.store import RunStore
from functions.orchestration.runs.values import RunState
from knative.client.resources import NAMESPACE, POD, SECRET
from pilotlight import deploy, keys, stack
from pilotlight.compile import compile_agent, compile_for_cluster
from tests.functions.postgres_server import postgres_server
from tests.functions.run_servers import submit, until
from tests.functions.servers import wait_until
from tests.functions.test_keys import bearer
from tests.pilotlight.test_durable_runs import agent

WINDOW = {"window": "6s"}
RUNS = {
    "store": "postgres",
    "urlSecret": {"secret": "support-runs", "key": "url"},
    "approve": ["clean"],
    "leaseSeconds": 2,
}


@pytest.fixture
def server():
    with postgres_server() as server:
        yield server


async def files_of(cluster, pod, root):
    """The pod's Secrets as files below a folder, and where each mount is."""
    secrets = {volume["name"]: volume["secret"]["secretName"] for volume in pod["volumes"]}
    found = {}
    for mount in pod["containers"][0]["volumeMounts"]:
        folder = root / mount["name"]
        folder.mkdir()
        found[mount["mountPath"]] = str(folder)
        secret = await cluster.get(SECRET, secrets[mount["name"]], "team")
        for name, content in (secret.get("data") or {}).items():
            (folder / name).write_bytes(base64.b64decode(content))
    return found


async def test_what_is_rendered_for_a_cluster_wakes_a_stage_at_zero(tmp_path, server):
    read = agent(tmp_path, RUNS, scaling=WINDOW)
    (waker,) = [obj for obj in compile_for_cluster(read) if obj["kind"] == "Deployment"]
    pod = waker["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    config = stack.StackConfig(state_dir=tmp_path / "state", gateway_port=0, api_port=0)
    async with stack.running(config) as running, aiohttp.ClientSession() as http:
        cluster, url = running.cluster, f"{running.gateway_url}/team/front-support"
        await cluster.create(NAMESPACE, {"metadata": {"name": "team"}})
        address = base64.b64encode(server.url.encode()).decode()
        meta = {"name": "support-runs", "namespace": "team"}
        await cluster.create(SECRET, {"metadata": meta, "data": {"url": address}})
        key = await keys.create(cluster, "pilotlight-keys", "team", "ann")
        await deploy.apply(cluster, compile_agent(read))
        async for _ in deploy.watch_until_ready(cluster, ["front-support"], "team", timeout_s=60):
            pass

        async def zero():
            return not await cluster.list(POD, "team")

        status, run, _ = await submit(http, url, **bearer(key))
        assert status == 202, run
        waiting = await until(http, url, run["id"], {"waiting"}, headers=bearer(key))
        assert waiting["waiting_for"]["step"] == "clean"
        await wait_until(zero, 120)

        places = await files_of(cluster, pod, tmp_path)
        env = {entry["name"]: entry["value"] for entry in container["env"]}
        for mounted, folder in places.items():
            env = {name: value.replace(mounted, folder) for name, value in env.items()}
        command = [sys.executable if word == "python" else word for word in container["command"]]
        with (tmp_path / "waker.log").open("wb") as log:
            process = subprocess.Popen(
                # The names of a cluster's Services mean something to the gateway alone here.
                command,
                env={**env, "PILOTLIGHT_GATEWAY": running.gateway_url},
                stdout=log,
                stderr=log,
            )
        try:
            # Decided about where no replica is: by what asks the database, as the timer of a run does.
            store = RunStore(Database(server.url))
            await store.decide(run["id"], "clean", {"approved": True, "by": "ann", "comment": None})

            async def ended():
                return (await store.get(run["id"])).state is RunState.SUCCEEDED

            await wait_until(ended, 60)
            await store.database.close()
        finally:
            process.terminate()
            assert process.wait(20) == 0, (tmp_path / "waker.log").read_text()
        assert b"cannot" not in (tmp_path / "waker.log").read_bytes()
