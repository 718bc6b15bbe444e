"""`pilotlight top`: the Services of this machine's platform, live.

Two readings give the rates; `table_of` is a pure function of both, so the screen shows what was measured
between them and nothing else. Unknown values are shown as `-`.
"""

import asyncio
import ssl
from pathlib import Path
from time import monotonic

import aiohttp
from rich.live import Live
from rich.table import Table

from knative.client.cluster import Cluster
from knative.client.resources import POD, REVISION, SERVICE
from pilotlight import kubeconfig, metrics_page, terminal
from pilotlight.service_readings import Reading, metrics_url, rates, read_services
from warmpool.adapters.price_file import packaged_prices

_TEXTS = ("service", "ready", "warmth")
_NUMBERS = ("desired", "replicas", "pending", "floor", "req/s", "TTFT", "GPU-s")


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
        earlier = before.services.get(name) if before else None
        rate = rates(earlier, service, now.at - before.at if before else 0.0)
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
            _shown(rate.requests_per_s, "{:.1f}"),
            _shown(None if rate.ttft_s is None else rate.ttft_s * 1000, "{:.0f} ms"),
            _shown(service.gpu_seconds, "{:.0f}"),
            _shown(cost, "{:.4f}"),
        )
    return table


def _shown(value: float | None, pattern: str) -> str:
    return "-" if value is None else pattern.format(value)


class Reader:
    """Takes readings from the API, the platform's metrics and the replicas' own."""

    def __init__(
        self,
        cluster: Cluster,
        http: aiohttp.ClientSession,
        server: str,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._tls = tls
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
        asked = [(pod, url) for pod in pods if (url := metrics_url(pod))]
        own = await asyncio.gather(*(metrics_page.read(self._http, url, tls=self._tls) for _, url in asked))
        by_pod = {
            (pod["metadata"]["namespace"], pod["metadata"]["name"]): samples
            for (pod, _), samples in zip(asked, own, strict=True)
        }
        return Reading(monotonic(), read_services(services, revisions, pods, platform, by_pod))


async def top(named: Path | None, state: Path | None, *, interval_s: float, once: bool) -> None:
    """Show the table until Ctrl-C, or two readings' worth of it once."""
    path = kubeconfig.find(named, state)
    server, trust = metrics_page.api_server(path)
    console = terminal.console()
    async with (
        kubeconfig.connect(path) as cluster,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust)) as http,
    ):
        reader = Reader(cluster, http, server, metrics_page.replica_tls(path.parent))
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
