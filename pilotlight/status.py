"""What `pilotlight status` prints: each Service, its replicas, and what keeps them."""

import contextlib
from collections.abc import Iterable
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
from pilotlight import kubeconfig, metrics_page, terminal
from pilotlight.gateway import running_gateway
from pilotlight.metric_samples import Sample
from pilotlight.readiness import pod_is_ready, ready_condition
from pilotlight.service_urls import reachable_url
from pilotlight.service_warnings import kept_by, rollout_in_short, service_warnings


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


async def _warnings(cluster: Cluster, service: dict[str, Any], samples: Iterable[Sample]) -> list[str]:
    meta = service["metadata"]
    try:
        pool = (await cluster.get(WARM_POOL, meta["name"], meta["namespace"])).get("status")
    except NotFound:
        pool = None
    return service_warnings(service, pool, samples)


async def _scale(cluster: Cluster, revision: str, namespace: str) -> tuple[int, int]:
    """Replicas that the autoscaler wants of a Revision, and its floor.

    Raises:
        NotFound: it is gone.
    """
    scaler = await cluster.get(POD_AUTOSCALER, revision, namespace)
    wanted = scaler.get("status", {}).get("desiredScale", 0)
    found = await cluster.get(REVISION, revision, namespace)
    return max(0, int(wanted)), int(found["metadata"].get("annotations", {}).get(MIN_SCALE) or 0)


async def _row(cluster: Cluster, service: dict[str, Any], samples: Iterable[Sample]) -> tuple[str, ...]:
    meta = service["metadata"]
    namespace, name = meta["namespace"], meta["name"]
    ready = ready_condition(service)
    shown = service.get("status", {})
    carrying = [entry["revisionName"] for entry in shown.get("traffic", ()) if entry.get("percent")]
    revisions = dict.fromkeys(carrying or filter(None, [shown.get("latestReadyRevisionName")]))
    pods = await cluster.list(POD, namespace, label_selector=f"{SERVICE_LABEL}={name}")
    hot = sum(pod_is_ready(pod) for pod in pods)
    scales: list[tuple[int, int]] = []
    for revision in revisions:
        with contextlib.suppress(NotFound):
            scales.append(await _scale(cluster, revision, namespace))
    desired = str(sum(wanted for wanted, _ in scales)) if scales else "-"
    floor = str(sum(held for _, held in scales)) if scales else "-"
    try:
        pool = (await cluster.get(WARM_POOL, name, namespace)).get("status", {})
    except NotFound:
        pool = {}
    if ready.status != "True":
        why = f"{ready.reason} {ready.message}".strip()
    else:
        kept = kept_by(namespace, name, samples) if pods else ""
        reasons = [str(pool.get("reason", "")), kept, rollout_in_short(pool)]
        why = "; ".join(filter(None, reasons))
    return f"{namespace}/{name}", ready.shown, f"{hot}/{len(pods)}", desired, floor, why
