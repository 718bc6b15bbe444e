"""What pods use, as `kubectl top` asks for it (`metrics.k8s.io`).

On a cluster a metrics server keeps the last samples; here the processes are looked at when somebody asks,
twice within half a second, for a rate needs two.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime

from starlette.requests import Request
from starlette.responses import Response

from knative.client import resources
from knative.client.resources import Object, Resource
from knative.local import containers, objects
from knative.local.apiserver import errors
from knative.local.apiserver.api import request_info, selectors
from knative.local.apiserver.api.request_info import RequestInfo
from knative.local.apiserver.kinds import KindInfo
from knative.local.apiserver.schemas.object_meta import OBJECT_META
from knative.local.apiserver.schemas.structural import FREE, STRING, struct
from knative.local.apiserver.store import Key, Record, Store
from knative.local.meter import Measured, Meter, Used

_APART_S = 0.5

POD_METRICS = KindInfo(
    Resource("metrics.k8s.io", "v1beta1", "pods", "PodMetrics"),
    "",
    struct(
        {
            "apiVersion": STRING,
            "kind": STRING,
            "metadata": OBJECT_META,
            "timestamp": STRING,
            "window": STRING,
            "containers": {"type": "array", "items": FREE},
        },
        about="CPU and memory that the processes of a replica use.",
    ),
    has_status=False,
    custom=False,
    verbs=("get", "list"),
)


Usages = Callable[[], Awaitable[Mapping[Key, Used]]]


class PodUsage:
    """Answers for `pods.metrics.k8s.io`.

    Args:
        store: the pods.
        usages: what each pod that runs uses.
        now: the wall clock.
    """

    def __init__(self, store: Store, usages: Usages, now: Callable[[], datetime]) -> None:
        self._store = store
        self._usages = usages
        self._now = now

    async def answer(self, request: Request, target: RequestInfo) -> Response:
        """One pod's metrics, or those of all that the selectors choose.

        Raises:
            ApiError: 404, there is no such pod, or it doesn't run; 405, something else than reading.
        """
        if request.method not in ("GET", "HEAD") or target.subresource is not None:
            raise errors.ApiError(
                405, "MethodNotAllowed", "the server does not allow this method on the requested resource"
            )
        if target.name is not None:
            record = self._store.get(Key(resources.POD, target.namespace or "", target.name))
            found = await self._measured([record] if record is not None else [])
            if not found:
                raise errors.not_found(target.subject)
            return request_info.answer(found[0])
        query = request.query_params
        by_label = selectors.labels(query.get("labelSelector"))
        by_field = selectors.fields(query.get("fieldSelector"), "pods")
        chosen = [
            record
            for record in self._store.list(resources.POD, target.namespace)
            if by_label(record.obj) and by_field(record.obj)
        ]
        return request_info.answer(
            {
                "kind": "PodMetricsList",
                "apiVersion": POD_METRICS.resource.api_version,
                "metadata": {},
                "items": await self._measured(chosen),
            }
        )

    async def _measured(self, records: list[Record]) -> list[Object]:
        if not records:
            return []
        meter: Meter[Key] = Meter()
        meter.read(time.monotonic(), await self._usages())
        await asyncio.sleep(_APART_S)
        meter.read(time.monotonic(), await self._usages())
        stamp = objects.timestamp(self._now())
        return [
            _metrics(record, found, stamp)
            for record in records
            if (found := meter.measured.get(record.key)) is not None
        ]


def _metrics(record: Record, found: Measured, stamp: str) -> Object:
    meta = record.obj["metadata"]
    serving = containers.serving(record.obj["spec"])
    return {
        "kind": "PodMetrics",
        "apiVersion": POD_METRICS.resource.api_version,
        "metadata": {
            "name": meta["name"],
            "namespace": meta["namespace"],
            "creationTimestamp": stamp,
            "labels": meta.get("labels") or {},
        },
        "timestamp": stamp,
        "window": f"{found.window_s:.3f}s",
        "containers": [
            {
                "name": serving.get("name") or "user-container",
                "usage": {
                    "cpu": f"{round(found.cpu_cores * 1e9)}n",
                    "memory": f"{found.memory_bytes // 1024}Ki",
                },
            }
        ],
    }
