"""Reconciles Revisions: each owns a PodAutoscaler, and its status says how its pods fare."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from knative.client.resources import POD, POD_AUTOSCALER, Object
from knative.local import conditions, objects, runnable
from knative.local.activator import Activator
from knative.local.apiserver.records import Key
from knative.local.apiserver.registry import Registry
from knative.local.controllers.desired_state import revision_status, start_failures
from knative.local.controllers.reconcilers.child_objects import ChildObjects
from knative.local.controllers.reconcilers.pod_autoscaler import PodAutoscalerReconciler
from knative.local.event_recorder import EventRecorder
from knative.local.routing import RevisionKey


class RevisionReconciler:
    """Reconciles Revisions.

    Args:
        registry: reads and writes objects.
        activator: learns whose replicas do not start, and which Revisions are gone.
        pod_autoscalers: makes a Revision's PodAutoscaler.
        recorder: takes Events.
        before_removal: called when a Revision is gone, while the activator still knows what it served.
        now: the wall clock.
    """

    def __init__(
        self,
        registry: Registry,
        activator: Activator,
        pod_autoscalers: PodAutoscalerReconciler,
        *,
        recorder: EventRecorder,
        before_removal: Callable[[RevisionKey], None],
        now: Callable[[], datetime],
    ) -> None:
        self._registry = registry
        self._objects = ChildObjects(registry)
        self._activator = activator
        self._pod_autoscalers = pod_autoscalers
        self._events = recorder
        self._before_removal = before_removal
        self._clock = now

    def reconcile(self, key: Key, obj: Object) -> None:
        """Make the Revision's PodAutoscaler if it can run here, and write its status."""
        problem = runnable.unrunnable(obj)
        if problem is None:
            self._pod_autoscalers.adopt(obj)
        autoscaler = self._objects.get(Key(POD_AUTOSCALER, key.namespace, key.name))
        pods = self._objects.owned(obj, POD)
        now = objects.timestamp(self._clock())
        status = revision_status.status(obj, autoscaler, pods, now, problem=problem)
        before = objects.condition_status(obj)
        if self._registry.set_status(key, status):
            self._record_readiness(key, before)
        revision = self._objects.get(key)
        if revision is not None:
            failure = start_failures.of_revision(revision, autoscaler, pods)
            self._activator.set_failure(RevisionKey(key.namespace, key.name), failure)

    def forget(self, key: Key) -> None:
        """The Revision is gone: nothing scales it and no request goes to it any more."""
        revision = RevisionKey(key.namespace, key.name)
        self._before_removal(revision)
        self._pod_autoscalers.release(revision)
        self._activator.remove_revision(revision)

    def _record_readiness(self, key: Key, before: str | None) -> None:
        revision = self._objects.get(key)
        ready = None if revision is None else conditions.named(revision)
        if revision is None or ready is None or ready.status == before:
            return
        if ready.status == "True":
            text = "Revision becomes ready upon all resources being ready"
            self._events.normal(revision, "RevisionReady", text)
        elif ready.status == "False":
            self._events.warning(revision, ready.reason, ready.message)
