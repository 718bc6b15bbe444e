"""Reads Prometheus pages: the platform's, and those of replicas."""

import base64
import ssl
from collections.abc import Mapping
from pathlib import Path

import aiohttp
import yaml
from prometheus_client.parser import text_string_to_metric_families

Sample = tuple[str, Mapping[str, str], float]
"""Name, labels and value."""
_TIMEOUT = aiohttp.ClientTimeout(total=1)


def api_server(path: Path) -> tuple[str, ssl.SSLContext]:
    """The API server's URL in a kubeconfig, and what its certificate is checked against."""
    cluster = yaml.safe_load(path.read_text())["clusters"][0]["cluster"]
    authority = cluster.get("certificate-authority-data")
    trust = ssl.create_default_context(
        cafile=cluster.get("certificate-authority"),
        cadata=base64.b64decode(authority).decode() if authority else None,
    )
    return str(cluster["server"]).rstrip("/"), trust


async def read(http: aiohttp.ClientSession, url: str) -> list[Sample]:
    """The samples at a URL; none where no page of metrics is served within a second."""
    try:
        async with http.get(url, timeout=_TIMEOUT) as response:
            if response.status != 200:
                return []
            text = await response.text()
    except (aiohttp.ClientError, TimeoutError):
        return []
    try:
        families = list(text_string_to_metric_families(text))
    except ValueError:  # a container's /metrics may be anything
        return []
    return [(sample.name, sample.labels, sample.value) for family in families for sample in family.samples]
