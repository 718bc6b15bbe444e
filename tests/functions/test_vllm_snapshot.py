"""A replica whose template process is restored from a snapshot answers as one that imported vLLM."""

import os
from pathlib import Path

import psutil
import pytest

from functions.engines.vllm.snapshots.criu import CriuError, find_criu
from functions.timing import parse_server_timing
from tests.functions.servers import wait_until
from tests.functions.vllm_replica import kill, vllm_replica

pytestmark = pytest.mark.vllm

PROVIDED = Path(__file__).parents[2] / "build/criu/criu"
CRIU = {"PILOTLIGHT_CRIU": str(PROVIDED)} if PROVIDED.exists() else {}


def written(replica):
    return [
        line
        for line in replica.stage.lines()
        if line["message"] in {"snapshot written", "no snapshot is written"}
    ]


async def test_the_second_replica_restores_what_the_first_has_written(made_model, tmp_path, http):
    try:
        find_criu({**os.environ, **CRIU})
    except CriuError as error:
        pytest.skip(f"{error} (sh scripts/criu.sh build/criu provides it; the test needs root)")
    with vllm_replica(made_model.path, tmp_path, PILOTLIGHT_SNAPSHOT="true", **CRIU) as first:
        await first.wait_for(http, "hot")
        _, imported, _ = await first.complete(http, "a snapshot of the template")
        await wait_until(lambda: bool(written(first)), 120)
        assert [line["message"] for line in written(first)] == ["snapshot written"]
    with vllm_replica(made_model.path, tmp_path, PILOTLIGHT_SNAPSHOT="true", **CRIU) as second:
        phases = (await second.wait_for(http, "hot"))["phases"]
        assert "restore" in phases
        assert "import" not in phases
        status, restored, headers = await second.complete(http, "a snapshot of the template")
        assert status == 200
        assert restored["choices"] == imported["choices"]
        timing = parse_server_timing(headers["Server-Timing"])
        assert timing is not None
        # Its processes are watched although they have a PID namespace of their own.
        kill(second.core)
        _, again, _ = await second.complete_at_last(http, prompt="a snapshot of the template")
        assert again["choices"] == imported["choices"]
        assert await second.metric(http, "pilotlight_cold_start_seconds_count") > 0
        # Killed with nothing to say goodbye, it leaves no process behind.
        left = second.processes()
        second.stage.process.kill()
        second.stage.process.wait()
        _, alive = psutil.wait_procs(left, timeout=10)
        assert not alive
