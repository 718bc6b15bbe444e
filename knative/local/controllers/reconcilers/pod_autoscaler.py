"""Reconciles PodAutoscalers: the autoscaler decides a Revision's scale, and pods are made or deleted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from knative.autoscaling import annotations as vocabulary
from knative.autoscaling.annotations import KPA
from knative.client.resources import POD, POD_AUTOSCALER, REVISION, Object
from knative.local import objects
from knative.local.activator import Activator
from knative.local.apiserver.names import generate_name
from knative.local.apiserver.records import Key
from knative.local.apiserver.registry import Registry
from knative.local.controllers.autoscaler import Autoscaler
from knative.local.controllers.desired_state import pod_autoscalers, revisions
from knative.local.controllers.reconcilers.child_objects import ChildObjects
from knative.local.controllers.settings import KnativeSettings
from knative.local.routing import RevisionKey


class PodAutoscalerReconciler:
    """Registers Revisions with the autoscaler, and keeps as many pods as it decides.

    Args:
        registry: reads and writes objects.
        activator: learns of Revisions and of their ready replicas.
        autoscaler: decides for PodAutoscalers of class kpa.
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
        self._objects = ChildObjects(registry)
        self._activator = activator
        self._autoscaler = autoscaler
        self._settings = settings
        self._clock = now

    def adopt(self, revision: Mapping[str, Any]) -> None:
        """Make a Revision's PodAutoscaler, and register the Revision with activator and autoscaler."""
        config = self._settings.autoscaler
        key = Key(POD_AUTOSCALER, objects.namespace_of(revision), objects.name_of(revision))
        wanted = revisions.pod_autoscaler(revision, self._objects.get(key), config)
        self._objects.ensure(key, wanted, revision)
        annotations = objects.annotations_of(wanted)
        spec = revisions.routing_spec(revision, annotations, config, self._settings.progress_deadline_s)
        self._activator.set_revision(spec)
        if spec.autoscaling.autoscaler_class != KPA:  # a third party's
            self.release(spec.key)
            return
        # An initial scale of zero is reached from the start.
        reached = spec.autoscaling.initial_scale == 0 or _is_initialized(self._objects.get(key))
        self._autoscaler.set_revision(spec, remembered=0 if reached else None)

    def release(self, key: RevisionKey) -> None:
        """A Revision is gone, or a third party scales it."""
        self._autoscaler.forget(key)

    def reconcile(self, key: Key, obj: Object) -> None:
        """Make or delete pods, and write the PodAutoscaler's status."""
        revision = self._objects.get(Key(REVISION, key.namespace, key.name))
        if revision is None or revision["metadata"].get("deletionTimestamp"):
            return
        pods = self._objects.owned(revision, POD)
        ready = len(pod_autoscalers.ready(pods))
        revision_key = RevisionKey(key.namespace, key.name)
        self._activator.set_endpoints(revision_key, pod_autoscalers.endpoints(pods))
        annotations = objects.annotations_of(obj)
        if annotations.get(vocabulary.CLASS, KPA) == KPA:
            self._autoscaler.set_pods(revision_key, ready, len(pod_autoscalers.active(pods)))
            decision = self._autoscaler.decision(revision_key)
            if decision is None:
                return  # the Revision's own reconcile comes first, and leads here again
            wanted = decision.replicas
            now = objects.timestamp(self._clock())
            status = pod_autoscalers.status(obj, decision, ready, now)
        else:
            wanted, status = revisions.initial_replicas(annotations, self._settings.autoscaler), None
        difference = pod_autoscalers.difference(pods, wanted)
        for _ in range(difference.create):
            self._registry.create(POD, key.namespace, revisions.pod(revision, generate_name("")))
        for name in difference.delete:
            self._registry.delete(Key(POD, key.namespace, name))
        if status is not None:
            self._registry.set_status(key, status)

    def forget(self, key: Key) -> None:
        """The PodAutoscaler is gone; its Revision goes too, or makes it again."""


def _is_initialized(scaler: Mapping[str, Any] | None) -> bool:
    return scaler is not None and objects.condition_status(scaler, "ScaleTargetInitialized") == "True"
