"""The pods of a Service, and the address at which a ready one serves HTTP."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Mapping
from typing import Any, Final

from knative.client.cluster import Cluster
from knative.client.resources import POD, REVISION
from knative.labels import (
    OBSERVED_PORT_ANNOTATION,
    PORT_ANNOTATION,
    REVISION_LABEL,
    SERVICE_LABEL,
    TLS_ANNOTATION,
)
from warmpool.domain.counts import parse_count
from warmpool.domain.object_key import ObjectKey

_QUEUE_PROXY_PORT: Final = 8012
"""Where Knative's queue-proxy listens in every pod of a Revision."""


async def pods_of(cluster: Cluster, service: ObjectKey) -> list[dict[str, Any]]:
    """The pods of a Service's Revisions, in no particular order.

    Raises:
        ClusterError: the API does not answer.
    """
    selector = f"{SERVICE_LABEL}={service[1]}"
    pods, revisions = await asyncio.gather(
        cluster.list(POD, service[0], selector), cluster.list(REVISION, service[0], selector)
    )
    names = {revision["metadata"]["name"] for revision in revisions}
    return [pod for pod in pods if (pod["metadata"].get("labels") or {}).get(REVISION_LABEL) in names]


def replica_url(pod: Mapping[str, Any], path: str) -> str | None:
    """The URL of a path on a ready replica; None for a pod that has no such URL.

    Requests go to the pod's own address and to a port number, whatever else its annotations say: labels and
    annotations are written by whoever made the pod. The port is queue-proxy's, the one that a mesh leaves
    open for it, or the one that the local platform writes on its pods. A pod in the host's network has the
    address of the node, where other things listen, and gets no request.
    """
    meta, status = pod["metadata"], pod.get("status") or {}
    ready = any(
        entry["type"] == "Ready" and entry["status"] == "True" for entry in status.get("conditions") or ()
    )
    if "deletionTimestamp" in meta or not ready or (pod.get("spec") or {}).get("hostNetwork"):
        return None
    try:
        address = ipaddress.ip_address(status.get("podIP") or "")
    except ValueError:
        return None
    annotations = meta.get("annotations") or {}
    observed = annotations.get(OBSERVED_PORT_ANNOTATION, _QUEUE_PROXY_PORT)
    port = parse_count(annotations.get(PORT_ANNOTATION, observed))
    if port is None or not 0 < port < 65_536:
        return None
    host = f"[{address}]" if address.version == 6 else str(address)
    scheme = "https" if TLS_ANNOTATION in annotations else "http"
    return f"{scheme}://{host}:{port}{path}"
