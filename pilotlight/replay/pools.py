"""The warm pools of a replay's Services: each arm's spec is put in force, and in the end what was there."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from knative.client.cluster import Cluster
from knative.client.errors import ClusterError, Conflict, NotFound
from knative.client.resources import SERVICE, WARM_POOL, Object
from knative.labels import AGENT_LABEL, STAGE_LABEL
from pilotlight.replay.errors import ReplayError

_ATTEMPTS: Final = 5
_POLL_S: Final = 0.2
_GENERATE: Final = "generate"


@dataclass(frozen=True, slots=True)
class Targets:
    """The Services that a replay touches.

    Attributes:
        namespace: of all of them.
        service: the one whose replicas hold the GPUs; the experiment is about it.
        services: all, with the other stages of its agent.
        stage: the name of its stage in the agent's replies; None without an agent.
    """

    namespace: str
    service: str
    services: tuple[str, ...]
    stage: str | None


async def find_targets(cluster: Cluster, namespace: str, entry: str) -> Targets:
    """The Services behind a function URL: its own, or those of the whole agent.

    Raises:
        ReplayError: there is no such Service.
        ClusterError: the API cannot be read.
    """
    try:
        found = await cluster.get(SERVICE, entry, namespace)
    except NotFound:
        raise ReplayError(
            f"Service {namespace}/{entry} does not exist; --service NAMESPACE/NAME names another one"
        ) from None
    labels = found["metadata"].get("labels") or {}
    agent = labels.get(AGENT_LABEL)
    if agent is None:
        return Targets(namespace, entry, (entry,), None)
    stages = await cluster.list(SERVICE, namespace, label_selector=f"{AGENT_LABEL}={agent}")
    names = sorted(stage["metadata"]["name"] for stage in stages)
    # A stage that is called alone stands for itself; the entry of a chain stands for its model.
    kinds = {stage["metadata"]["name"]: stage["metadata"]["labels"].get(STAGE_LABEL) for stage in stages}
    models = [name for name in names if kinds[name] == _GENERATE]
    model = entry if kinds[entry] != "orchestrate" or not models else models[0]
    services = tuple(names) if kinds[entry] == "orchestrate" else (entry,)
    return Targets(namespace, model, services, model.removesuffix(f"-{agent}"))


@dataclass(slots=True)
class PoolControl:
    """The WarmPools of a replay's targets.

    Args:
        cluster: where they are.
        targets: whose pools they are.
        keep: a file that gets what is to be restored, for the case that this process is killed.
    """

    cluster: Cluster
    targets: Targets
    keep: Path
    _before: dict[str, Object | None] = field(default_factory=dict)
    """By Service: its WarmPool as it was; None: it had none."""
    _names: dict[str, str] = field(default_factory=dict)

    async def remember(self) -> None:
        """Read what there is, before anything is changed.

        Raises:
            ClusterError: the API cannot be read.
        """
        pools = await self.cluster.list(WARM_POOL, self.targets.namespace)
        for service in self.targets.services:
            mine = [pool for pool in pools if (pool.get("spec") or {}).get("target") == service]
            if len(mine) > 1:
                names = ", ".join(pool["metadata"]["name"] for pool in mine)
                raise ReplayError(f"Service {service} has several WarmPools ({names}); leave one")
            if mine or service == self.targets.service:
                self._before[service] = mine[0] if mine else None
                self._names[service] = mine[0]["metadata"]["name"] if mine else service
        kept = [_applicable(pool) for pool in self._before.values() if pool is not None]
        self.keep.write_text(yaml.safe_dump_all(kept, sort_keys=False))

    @property
    def own_spec(self) -> Mapping[str, Any] | None:
        """The spec of the target's own pool as it was, without target and switch; None without a pool."""
        before = self._before[self.targets.service]
        if before is None:
            return None
        return {key: value for key, value in before["spec"].items() if key not in {"target", "enabled"}}

    async def apply(self, spec: Mapping[str, Any] | None) -> None:
        """Put an arm's pool in force; None switches every pool off.

        The pools of the agent's other stages are switched on as they are, so that a chain is warm as a whole.
        """
        for service in self._names:
            if service == self.targets.service:
                await self._put(service, spec)
            else:
                await self._switch(service, on=spec is not None)

    async def _put(self, service: str, spec: Mapping[str, Any] | None) -> None:
        name, namespace = self._names[service], self.targets.namespace
        for _ in range(_ATTEMPTS):
            try:
                found = await self.cluster.get(WARM_POOL, name, namespace)
            except NotFound:
                if spec is None:
                    return
                meta = {"name": name, "namespace": namespace}
                await self.cluster.create(
                    WARM_POOL, {"metadata": meta, "spec": {"target": service, **spec, "enabled": True}}
                )
                return
            wanted = {**found["spec"], "enabled": False} if spec is None else {"target": service, **spec}
            try:
                await self.cluster.replace(WARM_POOL, {**found, "spec": wanted})
            except Conflict:
                continue
            return
        raise ReplayError(f"WarmPool {namespace}/{name} keeps changing: something else writes it")

    async def _switch(self, service: str, *, on: bool) -> None:
        body = {"spec": {"enabled": on}}
        await self.cluster.patch(WARM_POOL, self._names[service], self.targets.namespace, body)

    async def taken_up(self, *, timeout_s: float) -> dict[str, int]:
        """Wait until the controller has decided about every pool as it is now; the floor of each Service.

        Raises:
            ReplayError: it does not.
        """
        floors: dict[str, int] = {}
        try:
            async with asyncio.timeout(timeout_s):
                for service, name in self._names.items():
                    # The API can be watched, but a status that comes within a second is not worth it.
                    while (floor := await self._floor(name)) is None:  # noqa: ASYNC110
                        await asyncio.sleep(_POLL_S)
                    floors[service] = floor
        except TimeoutError:
            raise ReplayError(
                f"the warm-pool controller has not taken up WarmPool {name} within {timeout_s:g} s; "
                "does it run?"
            ) from None
        return floors

    async def _floor(self, name: str) -> int | None:
        """The pool's floor, once its status is that of its present spec."""
        try:
            pool = await self.cluster.get(WARM_POOL, name, self.targets.namespace)
        except NotFound:
            return 0
        status = pool.get("status") or {}
        if status.get("observedGeneration") != pool["metadata"].get("generation"):
            return None
        floor = status.get("floor")
        return floor if isinstance(floor, int) else None

    async def restore(self) -> None:
        """Put back what was there.

        Raises:
            ReplayError: a pool could not be restored; the text says where its spec is.
        """
        failed: list[str] = []
        for service, before in self._before.items():
            try:
                await self._restore(service, before)
            except (ClusterError, ReplayError) as error:
                failed.append(f"WarmPool {self._names[service]}: {error}")
        if failed:
            raise ReplayError(
                "\n".join([*failed, f"what was there is kept in {self.keep}: kubectl apply -f {self.keep}"])
            )
        self.keep.unlink(missing_ok=True)

    async def _restore(self, service: str, before: Object | None) -> None:
        name, namespace = self._names[service], self.targets.namespace
        if before is None:
            try:
                await self.cluster.delete(WARM_POOL, name, namespace)
            except NotFound:
                return
            return
        for _ in range(_ATTEMPTS):
            now = await self.cluster.get(WARM_POOL, name, namespace)
            if now["spec"] == before["spec"]:
                return
            try:
                await self.cluster.replace(WARM_POOL, {**now, "spec": before["spec"]})
            except Conflict:
                continue
            return
        raise ReplayError("it keeps changing: something else writes it")


def _applicable(pool: Object) -> Object:
    """An object that `kubectl apply` takes."""
    meta = pool["metadata"]
    kept = {key: meta[key] for key in ("name", "namespace", "labels") if key in meta}
    return copy.deepcopy(
        {"apiVersion": WARM_POOL.api_version, "kind": WARM_POOL.kind, "metadata": kept, "spec": pool["spec"]}
    )
