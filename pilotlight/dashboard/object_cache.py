"""The objects that the dashboard shows, kept up to date by watches: what costs is a change, not a look."""

import asyncio
import logging
from collections.abc import Mapping

from knative.client.cluster import Cluster
from knative.client.errors import ClusterError
from knative.client.resources import POD, REVISION, SERVICE, TRIGGER, WARM_POOL, Object, Resource
from knative.labels import SERVICE_LABEL
from pilotlight.metric_samples import Key

log = logging.getLogger(__name__)

_AGAIN_S = 30.0
"""After a refusal: a kind may be installed, or a right be given, while this runs."""
_WATCHED: Mapping[Resource, str | None] = {
    SERVICE: None,
    REVISION: None,
    POD: SERVICE_LABEL,  # replicas only
    WARM_POOL: None,
    TRIGGER: None,
}


class ObjectCache:
    """Copies of the objects; a kind that cannot be read leaves the others.

    Args:
        cluster: the API.
        namespace: the one to look at; None: all.
    """

    def __init__(self, cluster: Cluster, namespace: str | None = None) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._objects: dict[Resource, dict[Key, Object]] = {kind: {} for kind in _WATCHED}
        self._problems: dict[Resource, str] = {}

    def of(self, kind: Resource) -> list[Object]:
        """The objects of a kind as last seen."""
        return list(self._objects[kind].values())

    def get(self, kind: Resource, key: Key) -> Object | None:
        """One object as last seen."""
        return self._objects[kind].get(key)

    @property
    def problems(self) -> list[str]:
        """What cannot be read, and why."""
        return [f"{kind.plural}: {why}" for kind, why in self._problems.items()]

    async def run(self) -> None:
        """Watch until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for kind, selector in _WATCHED.items():
                tasks.create_task(self._watch(kind, selector))

    async def _watch(self, kind: Resource, selector: str | None) -> None:
        while True:
            try:
                async for change, obj in self._cluster.watch(kind, self._namespace, selector):
                    self._problems.pop(kind, None)
                    key = obj["metadata"]["namespace"], obj["metadata"]["name"]
                    if change == "DELETED":
                        self._objects[kind].pop(key, None)
                    else:
                        self._objects[kind][key] = obj
            except ClusterError as problem:
                log.info("%s cannot be watched: %s", kind.plural, problem)
                self._problems[kind] = str(problem)
            await asyncio.sleep(_AGAIN_S)
