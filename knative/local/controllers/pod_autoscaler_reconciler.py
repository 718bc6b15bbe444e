"""A PodAutoscaler: given to the autoscaler of its class, whose word its replicas follow. All effects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from knative.autoscaling import annotations as vocabulary
from knative.autoscaling.annotations import KPA
from knative.client.resources import POD, POD_AUTOSCALER, REVISION, Object
from knative.local import objects
from knative.local.activator import Activator
from knative.local.apiserver.metadata import generate_name
from knative.local.apiserver.registry import Registry
from knative.local.apiserver.store import Key
from knative.local.controllers.autoscaler import Autoscaler
from knative.local.controllers.child_objects import ChildObjects
from knative.local.controllers.reconcilers import pod_autoscalers, revisions
from knative.local.controllers.settings import KnativeSettings
from knative.local.routing import RevisionKey


class PodAutoscalerReconciler:
    """Brings Revisions to their autoscalers, and replicas to the number that those want.

    Args:
        registry: reads and writes objects.
        activator: is told what exists and where it runs.
        autoscaler: the autoscaler of class kpa.
        settings: Knative's ConfigMaps.
        now: the wall clock.
    """

    def __init__(
        self,
        registry: Registry,
        activator: Activator,
        autoscaler: Autoscaler,
        *,
        settings: KnativeSettings,
        now: Callable[[], datetime],
    ) -> None:
        self._registry = registry
        self._children = ChildObjects(registry)
        self._activator = activator
        self._kpa = autoscaler
        self._settings = settings
        self._clock = now

    def adopt(self, revision: Mapping[str, Any]) -> None:
        """Make a Revision's PodAutoscaler, and tell the autoscaler of its class what counts for it."""
        config = self._settings.autoscaler
        key = Key(POD_AUTOSCALER, objects.namespace_of(revision), objects.name_of(revision))
        wanted = revisions.pod_autoscaler(revision, self._children.get(key), config)
        self._children.ensure(key, wanted, revision)
        marks = objects.annotations_of(wanted)
        spec = revisions.routing_spec(revision, marks, config, self._settings.progress_deadline_s)
        self._activator.set_revision(spec)
        scaler = self._children.get(key)
        if spec.autoscaling.autoscaler_class != KPA:  # a third party's
            self.forget(spec.key)
            return
        # An initial scale of zero is reached before it begins.
        reached = spec.autoscaling.initial_scale == 0 or _is_initialized(scaler)
        self._kpa.set_revision(spec, remembered=0 if reached else None)

    def forget(self, key: RevisionKey) -> None:
        """A Revision is gone, or somebody else scales it."""
        self._kpa.forget(key)

    def reconcile(self, key: Key, scaler: Object) -> None:
        """Bring replicas and status in line with what the autoscaler says."""
        revision = self._children.get(Key(REVISION, key.namespace, key.name))
        if revision is None or revision["metadata"].get("deletionTimestamp"):
            return
        pods = self._children.owned(revision, POD)
        ready = len(pod_autoscalers.ready(pods))
        revision_key = RevisionKey(key.namespace, key.name)
        self._activator.set_endpoints(revision_key, pod_autoscalers.endpoints(pods))
        marks = objects.annotations_of(scaler)
        if marks.get(vocabulary.CLASS, KPA) == KPA:
            wanted, status = self._by_kpa(revision_key, scaler, ready, len(pod_autoscalers.living(pods)))
        else:
            wanted, status = revisions.first_replicas(marks, self._settings.autoscaler), None
        if wanted is None:
            return  # the Revision's own reconcile comes first and will lead here again
        step = pod_autoscalers.step(pods, wanted)
        for _ in range(step.create):
            self._registry.create(POD, key.namespace, revisions.pod(revision, generate_name("")))
        for name in step.delete:
            self._registry.delete(Key(POD, key.namespace, name))
        if status is not None:
            self._registry.set_status(key, status)

    def _by_kpa(
        self, key: RevisionKey, scaler: Object, ready: int, total: int
    ) -> tuple[int | None, Object | None]:
        self._kpa.set_pods(key, ready, total)
        try:
            decision = self._kpa.status(key).decision
        except KeyError:
            return None, None
        return decision.replicas, pod_autoscalers.status(scaler, decision, ready, self._now())

    def _now(self) -> str:
        return objects.timestamp(self._clock())


def _is_initialized(scaler: Mapping[str, Any] | None) -> bool:
    return scaler is not None and objects.condition_status(scaler, "ScaleTargetInitialized") == "True"
