"""Reconciles Configurations: each owns the Revisions that its successive templates made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from knative.client.resources import REVISION, Object
from knative.local import objects
from knative.local.apiserver.records import Key
from knative.local.apiserver.registry import Registry
from knative.local.controllers.desired_state import configurations, revision_gc
from knative.local.controllers.reconcilers.child_objects import ChildObjects
from knative.local.controllers.settings import KnativeSettings
from knative.local.event_recorder import EventRecorder


class ConfigurationReconciler:
    """Reconciles Configurations.

    Args:
        registry: reads and writes objects.
        settings: how long unused Revisions are retained.
        recorder: takes Events.
        now: the wall clock.
    """

    def __init__(
        self,
        registry: Registry,
        settings: KnativeSettings,
        recorder: EventRecorder,
        now: Callable[[], datetime],
    ) -> None:
        self._registry = registry
        self._objects = ChildObjects(registry)
        self._settings = settings
        self._events = recorder
        self._clock = now

    def reconcile(self, key: Key, obj: Object) -> None:
        """Make the template's Revision, and delete Revisions that are no longer to be retained."""
        now = objects.timestamp(self._clock())
        owned = self._objects.owned(obj, REVISION)
        problem = None
        if configurations.latest_created(obj, owned) is None:
            name = configurations.revision_name(obj)
            if self._objects.get(Key(REVISION, key.namespace, name)) is None:
                self._registry.create(REVISION, key.namespace, configurations.revision(obj, now))
                self._events.normal(obj, "Created", f'Created Revision "{name}"')
                owned = self._objects.owned(obj, REVISION)
            else:
                problem = f'Revision "{name}" already exists and was made from another template.'
        self._registry.set_status(key, configurations.status(obj, owned, now, problem=problem))
        self._collect_revisions(self._objects.get(key) or obj, owned)

    def forget(self, key: Key) -> None:
        """The Configuration is gone; its Revisions are deleted as owned objects."""

    def _collect_revisions(self, config: Object, owned: Sequence[Object]) -> None:
        namespace = objects.namespace_of(config)
        for name in revision_gc.collectable(config, owned, self._clock(), self._settings.retention):
            self._registry.delete(Key(REVISION, namespace, name))
            self._events.normal(config, "RevisionCollected", f'Deleted unused Revision "{name}"')
