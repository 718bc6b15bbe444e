"""The pods of a Service, and the address at which a ready one serves HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from knative.client.cluster import Cluster
from knative.client.resources import POD
from knative.labels import PORT_ANNOTATION, SERVICE_LABEL
from warmpool.domain.counts import parse_count
from warmpool.domain.object_key import ObjectKey

_QUEUE_PROXY_PORT: Final = 8012
"""Where Knative's queue-proxy listens in every pod of a Revision."""


async def pods_of(cluster: Cluster, service: ObjectKey) -> list[dict[str, Any]]:
    """The pods of a Service, in no particular order.

    Raises:
        ClusterError: the API does not answer.
    """
    return await cluster.list(POD, service[0], f"{SERVICE_LABEL}={service[1]}")


def replica_url(pod: Mapping[str, Any], path: str) -> str | None:
    """The URL of a path on a ready replica; None for a pod that is not ready or names no valid port.

    The port is queue-proxy's, or the one that the local platform writes on its pods.
    """
    meta, status = pod["metadata"], pod.get("status") or {}
    ready = any(
        entry["type"] == "Ready" and entry["status"] == "True" for entry in status.get("conditions") or ()
    )
    if "deletionTimestamp" in meta or not ready or not status.get("podIP"):
        return None
    annotations = meta.get("annotations") or {}
    port = parse_count(annotations.get(PORT_ANNOTATION, _QUEUE_PROXY_PORT))
    if port is None or not 0 < port < 65_536:
        return None
    host = status["podIP"]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}{path}"
