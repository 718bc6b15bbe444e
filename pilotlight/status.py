"""What `pilotlight status` prints: each Service, its replicas, and what keeps them."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from knative.autoscaling.annotations import MIN_SCALE
from knative.client.cluster import Cluster
from knative.client.errors import NotFound
from knative.client.resources import POD, POD_AUTOSCALER, REVISION, SERVICE, WARM_POOL
from knative.labels import SERVICE_LABEL
from pilotlight import deploy, kubeconfig, metrics_page, terminal
from pilotlight.gateway import running_gateway
from pilotlight.service_urls import reachable_url
from pilotlight.service_warnings import RECENT, service_warnings


async def status(named: Path | None, state: Path | None, console: Console | None = None) -> None:
    """Print one line a Service, and where each answers."""
    console = console or terminal.console()
    path = kubeconfig.find(named, state)
    server, trust = metrics_page.api_server(path)
    async with (
        kubeconfig.connect(path) as cluster,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust)) as http,
    ):
        samples = await metrics_page.read(http, f"{server}/metrics")
        services = await cluster.list(SERVICE)
        rows = [await _row(cluster, service, samples) for service in services]
        warned = [await _warnings(cluster, service, samples) for service in services]
    if not rows:
        console.print("no Services; deploy an agent with: pilotlight deploy -f agent.yaml")
        return
    table = Table("service", "ready", "replicas", "desired", "floor", "why", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for service in services:
        if url := reachable_url(service, running_gateway(path.parent)):
            console.print(f"  {url}", soft_wrap=True, highlight=False)
    for service, texts in zip(services, warned, strict=True):
        meta = service["metadata"]
        for text in texts:
            console.print(
                f"[yellow]warning:[/] {meta['namespace']}/{meta['name']}: {escape(text)}", soft_wrap=True
            )


async def _warnings(
    cluster: Cluster, service: dict[str, Any], samples: Iterable[metrics_page.Sample]
) -> list[str]:
    meta = service["metadata"]
    try:
        pool = (await cluster.get(WARM_POOL, meta["name"], meta["namespace"])).get("status")
    except NotFound:
        pool = None
    return service_warnings(service, pool, samples)


async def _row(
    cluster: Cluster, service: dict[str, Any], samples: Iterable[metrics_page.Sample]
) -> tuple[str, ...]:
    meta = service["metadata"]
    namespace, name = meta["namespace"], meta["name"]
    ready = deploy.ready_condition(service)
    revision = service.get("status", {}).get("latestReadyRevisionName")
    pods = await cluster.list(POD, namespace, label_selector=f"{SERVICE_LABEL}={name}")
    hot = sum(_is_ready(pod) for pod in pods)
    desired = floor = "-"
    if revision:
        try:
            scaler = await cluster.get(POD_AUTOSCALER, revision, namespace)
            desired = str(scaler.get("status", {}).get("desiredScale", "-"))
            annotations = (await cluster.get(REVISION, revision, namespace))["metadata"].get(
                "annotations", {}
            )
            floor = annotations.get(MIN_SCALE, "0")
        except NotFound:
            pass
    try:
        pool = (await cluster.get(WARM_POOL, name, namespace)).get("status", {})
    except NotFound:
        pool = {}
    if ready.status != "True":
        why = f"{ready.reason} {ready.message}".strip()
    else:
        reasons = [str(pool.get("reason", "")), kept_by(namespace, name, samples) if pods else ""]
        why = "; ".join(filter(None, reasons))
    state = {"True": "yes", "False": "no"}.get(ready.status, "not yet")
    return f"{namespace}/{name}", state, f"{hot}/{len(pods)}", desired, floor, why


def kept_by(namespace: str, service: str, samples: Iterable[metrics_page.Sample]) -> str:
    """The requests that have kept a Service's replicas for the last five minutes; empty without any.

    Scrapes, probes and health checks keep a Service from scaling to zero as any request does.

    Args:
        namespace: the Service's.
        service: its name.
        samples: of the platform's metrics.
    """
    calls: dict[tuple[str, str, str], float] = {}
    for name, labels, value in samples:
        if name == RECENT and (labels["namespace"], labels["service"]) == (namespace, service):
            key = labels["method"], labels["path"], labels["user_agent"]
            calls[key] = calls.get(key, 0.0) + value
    if not calls:
        return ""
    (method, path, agent), number = max(calls.items(), key=lambda item: item[1])
    what = f"{method} {path}" if path else "many kinds"
    by = f" by {agent}" if agent else ""
    others = sum(calls.values()) - number
    more = f", and {others:.0f} others" if others else ""
    return f"requests: {what}{by}, {number:.0f} in 5 minutes{more}"


def _is_ready(pod: Mapping[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions", ())
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)
