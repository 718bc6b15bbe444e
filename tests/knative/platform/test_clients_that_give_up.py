"""A client that gives up during a start: it is counted, and the start is finished, not thrown away."""

import asyncio

import aiohttp
import pytest

from knative.client.resources import CONFIG_MAP, SERVICE
from tests.knative.platform.conftest import service, until

START_S = 7
"""Longer than the window, after which nothing wants the replica any more."""


async def test_the_start_is_finished_although_nobody_waits_for_it(local):
    settings = await local.cluster.get(CONFIG_MAP, "config-autoscaler", "knative-serving")
    keep = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "config-autoscaler"}}
    keep["metadata"]["namespace"] = "knative-serving"
    await local.cluster.apply(CONFIG_MAP, keep | {"data": {"allow-zero-initial-scale": "true"}})
    try:
        scale = {"initial-scale": "0", "window": "6s"}
        env = {"START_DELAY_S": str(START_S)}
        await local.cluster.create(SERVICE, service("a", scale=scale, env=env))
        await local.ready("a")
        url = f"{local.platform.gateway_url}/default/a/"
        with pytest.raises(TimeoutError):
            async with local.http.get(url, timeout=aiohttp.ClientTimeout(total=0.5)):
                pass
        await local.ready_pods(1)
        async with asyncio.timeout(1), local.http.get(url) as response:
            assert response.status == 200

        async def page() -> str:
            async with local.http.get(f"{local.platform.api_url}/metrics") as response:
                text = await response.text()
            return text if "pilotlight_start_seconds{" in text else ""

        text = await until(page)
        assert (
            'pilotlight_abandoned_requests_total{namespace="default",revision="a-00001",service="a"} 1.0'
            in text
        )
    finally:
        await local.cluster.apply(CONFIG_MAP, keep | {"data": settings.get("data") or {}})
