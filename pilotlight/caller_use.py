"""What callers used, as it was counted: by replicas that run, by those that have ended, or by Prometheus."""

import asyncio
import json
import ssl
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp

from functions.auth.caller import USE_BY_KEY
from knative.client.cluster import Cluster
from knative.client.resources import POD
from knative.labels import PORT_ANNOTATION, TLS_ANNOTATION
from pilotlight import metrics_page
from pilotlight.cost_account import KEY_REQUESTS, KEY_TOKENS, CallerUse, uses_of
from pilotlight.metric_samples import Sample
from warmpool.adapters.prometheus_api import PrometheusServer

_CONTAINER_PORT = 8080


async def of_running_replicas(cluster: Cluster, tls: ssl.SSLContext | None = None) -> list[CallerUse]:
    """Since each replica began, as its own metrics say; a replica that does not answer is left out.

    `tls` is for replicas that speak TLS.
    """
    pods = [(pod["metadata"]["namespace"], _url(pod)) for pod in await cluster.list(POD)]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls or True)) as http:
        found = await asyncio.gather(*(metrics_page.read(http, url) for _, url in pods if url))
    spaces = [namespace for namespace, url in pods if url]
    return [
        use
        for namespace, samples in zip(spaces, found, strict=True)
        for use in uses_of(
            (name, {**labels, "namespace": namespace}, value) for name, labels, value in samples
        )
    ]


def of_ended_replicas(logs: Path) -> list[CallerUse]:
    """What replicas of this machine's platform wrote as they ended, as far as their logs are kept."""
    return [use for file in sorted(logs.glob("*/*.log*")) for use in _logged(file.parent.name, file)]


async def of_prometheus(server: PrometheusServer, since: datetime, now: datetime) -> list[CallerUse]:
    """Since an instant, by a Prometheus that scrapes the replicas.

    Raises:
        PrometheusError: it does not answer.
    """
    seconds = max(60, int((now - since).total_seconds()))
    samples: list[Sample] = []
    async with server.session() as session:
        for name in (KEY_REQUESTS, KEY_TOKENS):
            query = f"sum by (namespace, stage, key, team) (increase({name}[{seconds}s]))"
            parameters = {"query": query, "time": f"{now.timestamp():.3f}"}
            _, result = await server.query(session, "query", parameters)
            samples += [(name, row["metric"], float(row["value"][1])) for row in result]
    return uses_of(samples)


def _logged(namespace: str, file: Path) -> Iterator[CallerUse]:
    with file.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if USE_BY_KEY not in line:
                continue
            try:
                entry = json.loads(line[line.index("{") :])
                if entry.get("message") == USE_BY_KEY:
                    yield CallerUse(
                        namespace,
                        str(entry["stage"]),
                        str(entry["key"]),
                        str(entry["team"]),
                        float(entry["requests"]),
                        float(entry["tokens"]),
                    )
            except (ValueError, KeyError, TypeError):
                continue  # somebody else's line


def _url(pod: Mapping[str, Any]) -> str | None:
    """The metrics of a replica, at its own address: what comes through a gateway would need a key."""
    address = (pod.get("status") or {}).get("podIP")
    annotations = pod["metadata"].get("annotations") or {}
    scheme = "https" if TLS_ANNOTATION in annotations else "http"
    port = annotations.get(PORT_ANNOTATION, _CONTAINER_PORT)
    return f"{scheme}://{address}:{port}/metrics" if address else None
