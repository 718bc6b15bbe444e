"""A PodAutoscaler: given to the autoscaler of its class, whose word its replicas follow. All effects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from knative import hpa_spec
from knative.autoscaling import annotations as vocabulary
from knative.autoscaling.annotations import KPA
from knative.autoscaling.config import Config
from knative.client.cluster import HORIZONTAL_POD_AUTOSCALER, POD, POD_AUTOSCALER, REVISION, Object
from knative.hpa import Outcome
from knative.local import objects
from knative.local.activator import Activator
from knative.local.apiserver.metadata import generated
from knative.local.apiserver.registry import Registry
from knative.local.apiserver.store import Key
from knative.local.controllers.autoscaler import Autoscaler
from knative.local.controllers.events import Recorder
from knative.local.controllers.reconcilers import hpa_objects, kpa_status, revisions
from knative.local.controllers.reconcilers.children import Children
from knative.local.controllers.settings import Settings
from knative.local.horizontal import HorizontalAutoscaler
from knative.local.routing import RevisionKey, RevisionSpec
from knative.utilization import Pod


@dataclass(frozen=True, slots=True)
class Autoscalers:
    """The two that there are."""

    kpa: Autoscaler
    hpa: HorizontalAutoscaler


class Scaling:
    """Brings Revisions to their autoscalers, and replicas to the number that those want.

    Args:
        registry: reads and writes objects.
        activator: is told what exists and where it runs.
        scalers: the autoscalers of both classes.
        settings: Knative's ConfigMaps.
        now: the wall clock.
        recorder: takes the Events of HorizontalPodAutoscalers.
    """

    def __init__(
        self,
        registry: Registry,
        activator: Activator,
        scalers: Autoscalers,
        *,
        settings: Settings,
        now: Callable[[], datetime],
        recorder: Recorder,
    ) -> None:
        self._registry = registry
        self._children = Children(registry)
        self._activator = activator
        self._kpa, self._hpa = scalers.kpa, scalers.hpa
        self._settings = settings
        self._clock = now
        self._events = recorder

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
        match spec.autoscaling.autoscaler_class:
            case vocabulary.KPA:
                self._adopt_kpa(spec, scaler)
            case vocabulary.HPA:
                self._adopt_hpa(spec, scaler, marks, config)
            case _:  # somebody else's
                self.forget(spec.key)

    def _adopt_kpa(self, spec: RevisionSpec, scaler: Object | None) -> None:
        horizontal = self._hpa.status(spec.key)
        self._hpa.forget(spec.key)
        # An initial scale of zero is reached before it begins.
        reached = spec.autoscaling.initial_scale == 0 or _is_initialized(scaler)
        remembered = horizontal.replicas if horizontal is not None else 0 if reached else None
        self._kpa.set_revision(spec, remembered=remembered)

    def _adopt_hpa(
        self, spec: RevisionSpec, scaler: Object | None, marks: Mapping[str, str], config: Config
    ) -> None:
        key = spec.key
        begun = revisions.first_replicas(marks, config)
        if scaler is not None and _is_initialized(scaler):
            begun = scaler["status"].get("desiredScale", begun)  # as before a restart, or a change of class
        self._kpa.forget(key)
        settings = None
        try:
            settings = hpa_spec.spec(marks, config, reachable=spec.reachable)
        except hpa_spec.Unusable as problem:
            if scaler is not None:
                kind = HORIZONTAL_POD_AUTOSCALER
                refused = f'{kind.kind}.{kind.group} "{key.name}" is invalid: {problem}'
                self._events.warning(scaler, "InternalError", f"failed to create HPA: {refused}")
        self._hpa.set_revision(key, settings, replicas=begun)

    def forget(self, key: RevisionKey) -> None:
        """A Revision is gone, or somebody else scales it."""
        self._kpa.forget(key)
        self._hpa.forget(key)

    def reconcile(self, key: Key, scaler: Object) -> None:
        """Bring replicas and status in line with what the autoscaler says."""
        revision = self._children.get(Key(REVISION, key.namespace, key.name))
        if revision is None or revision["metadata"].get("deletionTimestamp"):
            return
        pods = self._children.owned(revision, POD)
        ready = len(kpa_status.ready(pods))
        revision_key = RevisionKey(key.namespace, key.name)
        self._activator.set_endpoints(revision_key, kpa_status.endpoints(pods))
        match objects.annotations_of(scaler).get(vocabulary.CLASS, KPA):
            case vocabulary.KPA:
                self._remove_horizontal(key)
                wanted, status = self._by_kpa(revision_key, scaler, ready, len(kpa_status.living(pods)))
            case vocabulary.HPA:
                wanted, status = self._by_hpa(revision_key, scaler, ready)
            case _:
                self._remove_horizontal(key)
                marks = objects.annotations_of(scaler)
                wanted, status = revisions.first_replicas(marks, self._settings.autoscaler), None
        if wanted is None:
            return  # the Revision's own reconcile comes first and will lead here again
        step = kpa_status.step(pods, wanted)
        for _ in range(step.create):
            self._registry.create(POD, key.namespace, revisions.pod(revision, generated("")))
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
        return decision.replicas, kpa_status.status(scaler, decision, ready, self._now())

    def _by_hpa(self, key: RevisionKey, scaler: Object, ready: int) -> tuple[int | None, Object | None]:
        scaling = self._hpa.status(key)
        if scaling is None:
            return None, None
        if scaling.settings is not None:
            mine = Key(HORIZONTAL_POD_AUTOSCALER, key.namespace, key.name)
            self._children.ensure(mine, hpa_objects.horizontal(scaler, scaling.settings), scaler)
            made = self._children.get(mine)
            if made is not None:
                self._registry.set_status(mine, hpa_objects.horizontal_status(made, scaling, self._now()))
        config = self._settings.autoscaler
        return scaling.replicas, hpa_objects.status(scaler, scaling, ready, self._now(), config=config)

    def _remove_horizontal(self, key: Key) -> None:
        mine = Key(HORIZONTAL_POD_AUTOSCALER, key.namespace, key.name)
        if self._children.get(mine) is not None:
            self._registry.delete(mine)

    def pods(self, key: RevisionKey, resource: str) -> list[Pod]:
        """A Revision's replicas as the HorizontalPodAutoscaler sees them."""
        revision = self._children.get(Key(REVISION, key.namespace, key.name))
        return [] if revision is None else hpa_objects.pods(self._children.owned(revision, POD), resource)

    def tell(self, key: RevisionKey, outcome: Outcome) -> None:
        """Write down what a HorizontalPodAutoscaler did, or could not."""
        about = self._children.get(Key(HORIZONTAL_POD_AUTOSCALER, key.namespace, key.name))
        if about is None:
            return
        if outcome.reason:
            text = f"New size: {outcome.replicas}; reason: {outcome.reason}"
            self._events.normal(about, "SuccessfulRescale", text)
        for reason, text in outcome.failures:
            self._events.warning(about, reason, text)

    def _now(self) -> str:
        return objects.timestamp(self._clock())


def _is_initialized(scaler: Mapping[str, Any] | None) -> bool:
    return scaler is not None and objects.condition_status(scaler, "ScaleTargetInitialized") == "True"
