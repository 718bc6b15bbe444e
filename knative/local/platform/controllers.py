"""Assembles the controllers: one reconciler for each kind, behind one work queue."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from knative.client.resources import CONFIGURATION, POD_AUTOSCALER, REVISION, ROUTE, SERVICE
from knative.local.activator import Activator
from knative.local.apiserver.registry import Registry
from knative.local.controllers.autoscaler import Autoscaler
from knative.local.controllers.controller_manager import ControllerManager
from knative.local.controllers.dependencies import Dependencies
from knative.local.controllers.reconcilers.configuration import ConfigurationReconciler
from knative.local.controllers.reconcilers.pod_autoscaler import PodAutoscalerReconciler
from knative.local.controllers.reconcilers.revision import RevisionReconciler
from knative.local.controllers.reconcilers.route import RouteReconciler
from knative.local.controllers.reconcilers.service import ServiceReconciler
from knative.local.controllers.settings import KnativeSettings
from knative.local.controllers.work_queue import WorkQueue
from knative.local.event_recorder import EventRecorder
from knative.local.routing import RevisionKey


def assemble(
    registry: Registry,
    queue: WorkQueue,
    activator: Activator,
    autoscaler: Autoscaler,
    *,
    settings: KnativeSettings,
    recorder: EventRecorder,
    url_of: Callable[[str, str], str],
    before_removal: Callable[[RevisionKey], None],
    now: Callable[[], datetime],
) -> ControllerManager:
    """The controller manager with all reconcilers.

    Args:
        registry: reads and writes objects.
        queue: takes the keys to be reconciled; the autoscaler adds to it as well.
        activator: is told which Services, Revisions and replicas there are.
        autoscaler: is told which Revisions there are, and decides their scale.
        settings: Knative's ConfigMaps.
        recorder: takes Events.
        url_of: the public URL of a name in a namespace.
        before_removal: called when a Revision is gone, while the activator still knows what it served.
        now: the wall clock.
    """
    dependencies = Dependencies(registry.store)
    pod_autoscalers = PodAutoscalerReconciler(registry, activator, autoscaler, settings=settings, now=now)
    return ControllerManager(
        registry.store,
        queue,
        dependencies,
        {
            SERVICE: ServiceReconciler(registry, queue, now),
            CONFIGURATION: ConfigurationReconciler(registry, settings, recorder, now),
            ROUTE: RouteReconciler(registry, activator, dependencies, queue=queue, url_of=url_of, now=now),
            REVISION: RevisionReconciler(
                registry,
                activator,
                pod_autoscalers,
                recorder=recorder,
                before_removal=before_removal,
                now=now,
            ),
            POD_AUTOSCALER: pod_autoscalers,
        },
    )
