"""`pilotlight top`: the Services of this machine's platform, live.

Two readings give the rates; `table_of` is a pure function of both, so the screen shows what was measured
between them and nothing else. Unknown values are shown as `-`.
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import aiohttp
from rich.live import Live
from rich.table import Table

from knative.autoscaling.annotations import MIN_SCALE
from knative.client.cluster import Cluster
from knative.client.resources import POD, REVISION, SERVICE
from knative.labels import PORT_ANNOTATION, SERVICE_LABEL
from pilotlight import deploy, kubeconfig, metrics_page, terminal
from warmpool.adapters.price_file import packaged_prices

_STATE = "pilotlight_replica_state"
"""A Prometheus state set: its label has the metric's own name."""
_TEXTS = ("service", "ready", "warmth")
_NUMBERS = ("desired", "replicas", "pending", "floor", "req/s", "TTFT", "GPU-s")


@dataclass(frozen=True)
class ServiceReading:
    """One Service at one instant; counters as they stand, None where nothing reports them."""

    ready: str
    desired: int | None = None
    replicas_ready: int = 0
    replicas_pending: int = 0
    floor: int = 0
    warmth: tuple[str, ...] = ()
    requests: float | None = None
    first_tokens: float | None = None
    first_token_seconds: float | None = None
    gpu_seconds: float | None = None


@dataclass(frozen=True)
class Reading:
    """All Services at one instant (monotonic seconds)."""

    at: float
    services: Mapping[str, ServiceReading] = field(default_factory=dict)


def table_of(before: Reading | None, now: Reading) -> Table:
    """The screen: levels from `now`, rates from the difference to `before`."""
    prices = packaged_prices()
    price = prices.of(None)
    table = Table(box=None, pad_edge=False)
    for name in _TEXTS:
        table.add_column(name)
    for name in (*_NUMBERS, f"cost {prices.currency}"):
        table.add_column(name, justify="right")
    for name, service in sorted(now.services.items()):
        earlier = (before.services.get(name) if before else None) or ServiceReading(ready="")
        seconds = now.at - before.at if before else 0.0
        requests = _difference(earlier.requests, service.requests)
        tokens = _difference(earlier.first_tokens, service.first_tokens)
        waited = _difference(earlier.first_token_seconds, service.first_token_seconds)
        cost = None
        if price is not None and service.gpu_seconds is not None:
            cost = service.gpu_seconds * float(price.hourly) / 3600
        table.add_row(
            name,
            service.ready,
            ",".join(service.warmth) or "-",
            _shown(service.desired, "{:d}"),
            str(service.replicas_ready),
            str(service.replicas_pending),
            str(service.floor),
            _shown(requests / seconds if requests is not None and seconds else None, "{:.1f}"),
            _shown(waited / tokens * 1000 if tokens and waited is not None else None, "{:.0f} ms"),
            _shown(service.gpu_seconds, "{:.0f}"),
            _shown(cost, "{:.4f}"),
        )
    return table


def _difference(before: float | None, now: float | None) -> float | None:
    # A counter that went back was started again: what it holds came since.
    if before is None or now is None:
        return None
    return now - before if now >= before else now


def _shown(value: float | None, pattern: str) -> str:
    return "-" if value is None else pattern.format(value)


class Reader:
    """Takes readings from the API, the platform's metrics and the replicas' own."""

    def __init__(self, cluster: Cluster, http: aiohttp.ClientSession, server: str) -> None:
        self._cluster = cluster
        self._http = http
        self._server = server

    async def read(self) -> Reading:
        """One reading."""
        services, revisions, pods, platform = await asyncio.gather(
            self._cluster.list(SERVICE),
            self._cluster.list(REVISION),
            self._cluster.list(POD),
            metrics_page.read(self._http, f"{self._server}/metrics"),
        )
        own = await asyncio.gather(
            *(metrics_page.read(self._http, url) for url in map(_address, pods) if url)
        )
        by_url = dict(zip([url for url in map(_address, pods) if url], own, strict=True))
        return Reading(
            monotonic(),
            {
                f"{s['metadata']['namespace']}/{s['metadata']['name']}": _service(
                    s, revisions, pods, platform, by_url
                )
                for s in services
            },
        )


def _address(pod: dict[str, Any]) -> str | None:
    port = pod["metadata"].get("annotations", {}).get(PORT_ANNOTATION)
    ip = pod.get("status", {}).get("podIP")
    return f"http://{ip}:{port}/metrics" if port and ip else None


def _service(
    service: dict[str, Any],
    revisions: Iterable[dict[str, Any]],
    pods: Iterable[dict[str, Any]],
    platform: Iterable[metrics_page.Sample],
    replicas: Mapping[str, list[metrics_page.Sample]],
) -> ServiceReading:
    meta = service["metadata"]
    namespace, name = meta["namespace"], meta["name"]
    mine = [
        p
        for p in pods
        if p["metadata"]["namespace"] == namespace and p["metadata"]["labels"].get(SERVICE_LABEL) == name
    ]
    hot = sum(_is_ready(pod) for pod in mine)
    latest = service.get("status", {}).get("latestReadyRevisionName")
    floor = next(
        (
            int(r["metadata"].get("annotations", {}).get(MIN_SCALE, "0"))
            for r in revisions
            if r["metadata"]["name"] == latest and r["metadata"]["namespace"] == namespace
        ),
        0,
    )
    samples = [s for s in platform if _belongs(s[1], namespace, name)]
    own = [s for pod in mine if (url := _address(pod)) for s in replicas.get(url, ())]
    desired = _sum(samples, "autoscaler_desired_pods")
    state = {"True": "yes", "False": "no"}
    return ServiceReading(
        ready=state.get(deploy.ready_condition(service).status, "not yet"),
        desired=None if desired is None else int(desired),
        replicas_ready=hot,
        replicas_pending=len(mine) - hot,
        floor=floor,
        warmth=tuple(
            sorted(
                {
                    labels["state"]
                    for key, labels, value in own
                    if key == "pilotlight_replica_state" and value == 1
                }
            )
        ),
        requests=_sum(samples, "activator_request_count"),
        first_tokens=_sum(own, "pilotlight_time_to_first_token_seconds_count"),
        first_token_seconds=_sum(own, "pilotlight_time_to_first_token_seconds_sum"),
        gpu_seconds=_sum(samples, "pilotlight_gpu_seconds_total"),
    )


def _owner(pod: dict[str, Any]) -> tuple[str, str | None]:
    meta = pod["metadata"]
    return meta["namespace"], meta.get("labels", {}).get(SERVICE_LABEL)


def _belongs(labels: Mapping[str, str], namespace: str, service: str) -> bool:
    return (labels.get("namespace_name") or labels.get("namespace")) == namespace and (
        labels.get("service_name") or labels.get("service")
    ) == service


def _sum(samples: Iterable[metrics_page.Sample], name: str) -> float | None:
    values = [value for key, _, value in samples if key == name]
    return sum(values) if values else None


def _is_ready(pod: dict[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions", ())
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


async def top(named: Path | None, state: Path | None, *, interval_s: float, once: bool) -> None:
    """Show the table until Ctrl-C, or two readings' worth of it once."""
    path = kubeconfig.find(named, state)
    server, trust = metrics_page.api_server(path)
    console = terminal.console()
    async with (
        kubeconfig.connect(path) as cluster,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust)) as http,
    ):
        reader = Reader(cluster, http, server)
        before = await reader.read()
        if once:
            await asyncio.sleep(interval_s)
            console.print(table_of(before, await reader.read()))
            return
        with Live(
            table_of(None, before), console=console, screen=console.is_terminal, auto_refresh=False
        ) as live:
            while True:
                await asyncio.sleep(interval_s)
                now = await reader.read()
                live.update(table_of(before, now), refresh=True)
                before = now
