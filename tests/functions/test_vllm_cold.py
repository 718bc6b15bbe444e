"""A replica opens its port long before its engine can answer."""

import contextlib

import aiohttp
import psutil
import pytest

from tests.functions.servers import stage_process, wait_until
from tests.functions.vllm_replica import NAME

pytestmark = pytest.mark.vllm


async def test_the_port_answers_while_the_engine_is_still_being_imported(made_model, tmp_path, http):
    with stage_process(
        "generate", tmp_path, PILOTLIGHT_MODEL_URI=str(made_model.path), PILOTLIGHT_MODEL_NAME=NAME
    ) as stage:
        seen: list[tuple[int, dict]] = []

        async def answers() -> bool:
            with contextlib.suppress(aiohttp.ClientError):
                async with http.get(f"{stage.url}/healthz/live") as response:
                    seen.append((response.status, await response.json()))
            return bool(seen)

        await wait_until(answers)
        (status, view), *_ = seen
        assert status == 200
        assert view["state"] in {"starting", "loading"}
        assert "import" not in view["phases"]
        async with http.get(f"{stage.url}/healthz/ready") as response:
            assert response.status == 503
        for path in ("/health", "/ping"):
            async with http.get(stage.url + path) as response:
                assert (response.status, await response.read()) == (503, b"")
        # Processor time of its own, which other load on the machine does not change.
        spent = psutil.Process(stage.process.pid).cpu_times()
        assert spent.user + spent.system < 5
        stage.terminate()
        assert stage.wait() == 0
