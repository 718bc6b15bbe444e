"""Reads Prometheus pages: the platform's, and those of replicas."""

import asyncio
import base64
import ssl
from collections.abc import Collection
from pathlib import Path

import aiohttp
import yaml
from prometheus_client.parser import text_string_to_metric_families

from knative.local.certificate_authority import clients_folder
from pilotlight.metric_samples import Sample
from transport.mutual_tls import MutualTls

_TIMEOUT = aiohttp.ClientTimeout(total=1)
_LARGE = 200_000
"""Characters from which on parsing would hold up what else runs in this process."""


def api_server(path: Path) -> tuple[str, ssl.SSLContext]:
    """The API server's URL in a kubeconfig, and what its certificate is checked against."""
    cluster = yaml.safe_load(path.read_text())["clusters"][0]["cluster"]
    authority = cluster.get("certificate-authority-data")
    trust = ssl.create_default_context(
        cafile=cluster.get("certificate-authority"),
        cadata=base64.b64decode(authority).decode() if authority else None,
    )
    return str(cluster["server"]).rstrip("/"), trust


def replica_tls(state_dir: Path) -> ssl.SSLContext | None:
    """For connections to the replicas of this machine's platform; None: it has certified nobody."""
    try:
        return MutualTls.client(clients_folder(state_dir)).context
    except OSError:
        return None


async def read(
    http: aiohttp.ClientSession,
    url: str,
    names: Collection[str] | None = None,
    tls: ssl.SSLContext | None = None,
) -> list[Sample]:
    """The samples at a URL; none where no page of metrics is served within a second.

    Args:
        http: the client.
        url: of the page.
        tls: for a replica that speaks TLS; None: as the client is set up.
        names: of the samples to read; None reads all. A large page is read in a thread of its own.
    """
    try:
        async with http.get(url, timeout=_TIMEOUT, ssl=tls or True) as response:
            if response.status != 200:
                return []
            text = await response.text()
    except (aiohttp.ClientError, TimeoutError):
        return []
    if len(text) > _LARGE:
        return await asyncio.to_thread(_samples, text, names)
    return _samples(text, names)


def _samples(text: str, names: Collection[str] | None) -> list[Sample]:
    if names is not None:  # before they are parsed, which is what takes long
        begins = tuple(name + end for name in names for end in "{ ")
        text = "".join(line for line in text.splitlines(keepends=True) if line.startswith(begins))
    try:
        families = list(text_string_to_metric_families(text))
    except ValueError:  # a container's /metrics may be anything
        return []
    return [(sample.name, sample.labels, sample.value) for family in families for sample in family.samples]
