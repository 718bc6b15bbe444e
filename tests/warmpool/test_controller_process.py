"""`python -m warmpool.controller` against a kubeconfig: health, metrics, prices, SIGTERM."""

import asyncio
import json
import os
import sys
from datetime import timedelta

import aiohttp
import pytest
import yaml

from knative.client.errors import Unavailable
from tests.warmpool.conftest import MONDAY, kubeconfig, make_controller
from warmpool.adapters.health import HealthServer
from warmpool.controller import Settings

OPEN = {"name": "open", "from": "00:00", "to": "24:00", "replicas": 2}


@pytest.fixture
async def alone(api, tmp_path, unused_tcp_port):
    """Starts the controller as a process of its own."""
    started = []

    async def start(*arguments):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "warmpool.controller",
            f"--kubeconfig={kubeconfig(tmp_path, api.port)}",
            f"--port={unused_tcp_port}",
            "--log=json",
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "KUBECONFIG": ""},
        )
        started.append(process)
        return process, f"http://127.0.0.1:{unused_tcp_port}"

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def fetch(url):
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, await answer.text()


async def until(check, seconds=30):
    async with asyncio.timeout(seconds):
        while True:
            try:
                if result := await check():
                    return result
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)


async def test_it_holds_a_floor_serves_metrics_and_ends_on_sigterm(alone, knative, tmp_path):
    knative.service("generate")
    await knative.pool(windows=[OPEN])
    process, url = await alone(f"--history={tmp_path / 'history.db'}")

    async def held():
        return knative.min_scale("generate-00001") == "2"

    await until(held)
    assert (await fetch(f"{url}/healthz/live"))[0] == 200
    status, body = await fetch(f"{url}/healthz/ready")
    assert (status, json.loads(body)) == (200, {"synced": True, "pools": 1})
    labels = '{namespace="default",pool="pool",target="generate"}'

    async def told():  # the write is there before the pass ends that the metrics tell of
        return f"pilotlight_warmpool_floor{labels} 2.0" in (await fetch(f"{url}/metrics"))[1]

    await until(told)
    _, metrics = await fetch(f"{url}/metrics")
    assert 'pilotlight_warmpool_reason{namespace="default",pool="pool",reason="window/open"' in metrics
    process.terminate()
    _, log = await asyncio.wait_for(process.communicate(), 10)
    assert process.returncode == 0
    assert knative.min_scale("generate-00001") == "2", (
        "a controller that stops leaves the floor to the next one"
    )
    lines = [json.loads(line) for line in log.decode().splitlines()]
    assert any("min-scale 2" in line["message"] for line in lines)


async def test_an_invalid_price_file_is_reported_in_one_line(alone, tmp_path):
    prices = tmp_path / "prices.yaml"
    prices.write_text(
        yaml.safe_dump({"gpus": {"nvidia-l4": {"hourly": -1, "date": "2026-01-01", "source": "me"}}})
    )
    process, _ = await alone(f"--prices={prices}")
    _, errors = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 1
    assert "prices.gpus.nvidia-l4.hourly = -1, must be at least 0" in errors.decode()


async def test_a_missing_kubeconfig_is_reported_in_one_line(alone, tmp_path):
    process, _ = await alone(f"--kubeconfig={tmp_path / 'nowhere'}")
    _, errors = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 1
    assert "no usable kubeconfig" in errors.decode()


async def test_liveness_follows_the_passes_and_readiness_the_first_list(cluster, clock, knative):
    controller = make_controller(cluster, clock=clock)
    async with HealthServer(controller, clock, host="127.0.0.1", port=0) as health:
        url = f"http://127.0.0.1:{health.port}"
        assert (await fetch(f"{url}/healthz/ready"))[0] == 503
        assert (await fetch(f"{url}/healthz/live"))[0] == 200
        await controller.tick()
        assert (await fetch(f"{url}/healthz/ready"))[0] == 200
        clock.on(timedelta(minutes=6))
        assert (await fetch(f"{url}/healthz/live"))[0] == 503
        await controller.tick()
        assert (await fetch(f"{url}/healthz/live"))[0] == 200


async def test_metrics_show_cost_budget_and_lead_time(cluster, clock, knative):
    clock.at = MONDAY + timedelta(hours=12)
    knative.service("generate")
    await knative.pool(leadTime="3m", limits={"budget": {"amount": 400}})
    controller = make_controller(cluster, clock=clock)
    for _ in range(5):
        await controller.tick()
        knative.settle()
        clock.on(timedelta(minutes=5))
    async with HealthServer(controller, clock, host="127.0.0.1", port=0) as health:
        _, metrics = await fetch(f"http://127.0.0.1:{health.port}/metrics")
    values = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if not line.startswith("#"))
    labels = 'namespace="default",pool="pool",target="generate"'
    assert float(values[f"pilotlight_warmpool_lead_seconds{{{labels}}}"]) == 180
    spent = next(value for name, value in values.items() if name.startswith("pilotlight_warmpool_cost_total"))
    left = float(values[f"pilotlight_warmpool_budget_left{{{labels}}}"])
    assert float(spent) > 0
    assert left == pytest.approx(400 - float(spent))


class UnreadableCluster:
    """A cluster on which a fault in the controller shows."""

    async def pages(self, *_):
        raise RuntimeError("a fault")
        yield


class AbsentCluster:
    """A cluster that does not answer."""

    async def pages(self, *_):
        raise Unavailable(503, "Unavailable", "nobody answers")
        yield


@pytest.mark.parametrize(("cluster", "status"), [(UnreadableCluster(), 503), (AbsentCluster(), 200)])
async def test_liveness_fails_without_passes_but_not_without_an_api(clock, cluster, status):
    settings = Settings(retry_first=timedelta(milliseconds=10), retry_last=timedelta(milliseconds=10))
    controller = make_controller(cluster, clock=clock, settings=settings)
    async with HealthServer(controller, clock, host="127.0.0.1", port=0) as health:
        stop = asyncio.Event()
        task = asyncio.create_task(controller.run(stop))
        clock.on(timedelta(minutes=6))

        async def answered():
            return (await fetch(f"http://127.0.0.1:{health.port}/healthz/live"))[0] == status

        await until(answered)
        assert not controller.synced
        stop.set()
        await task
