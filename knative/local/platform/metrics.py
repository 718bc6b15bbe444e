"""The platform's Prometheus metrics: the autoscaler's under Knative's names, replicas, GPU slots, limits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from knative.client import resources
from knative.labels import CONFIGURATION_LABEL, REVISION_LABEL, SERVICE_LABEL
from knative.local import objects
from knative.local.apiserver.records import Key
from knative.local.apiserver.registry import Registry
from knative.local.controllers.autoscaler import Autoscaler, AutoscalerStatus
from knative.local.kubelet.gpus import GpuMeter, GpuSlots
from knative.local.kubelet.limit_enforcer import LimitMechanism

_KNATIVE_LABELS = ("namespace_name", "service_name", "configuration_name", "revision_name")
_REVISION_LABELS = ("namespace", "service", "revision")


class PlatformMetrics:
    """A Prometheus collector over the present state; only GPU slot seconds are accumulated.

    Args:
        registry: Revisions and pods.
        autoscaler: its decisions.
        slots: the GPU slots.
        meter: GPU slot seconds.
        mechanism: what enforces the limits of containers.
    """

    def __init__(
        self,
        registry: Registry,
        autoscaler: Autoscaler,
        slots: GpuSlots,
        meter: GpuMeter,
        mechanism: LimitMechanism,
    ) -> None:
        self._registry = registry
        self._autoscaler = autoscaler
        self._slots = slots
        self._meter = meter
        self._mechanism = mechanism

    def render(self) -> str:
        """All metrics in Prometheus' text format."""
        registry = CollectorRegistry()
        registry.register(self)
        return generate_latest(registry).decode()

    def collect(self) -> Iterator[Metric]:
        """All metric families, for `CollectorRegistry`."""
        yield from self._scaling()
        yield from self._replicas()
        yield from self._gpus()
        yield self._limits()

    def _scaling(self) -> Iterator[Metric]:
        families = {
            name: GaugeMetricFamily(f"autoscaler_{name}", about, labels=_KNATIVE_LABELS)
            for name, about in (
                ("desired_pods", "Number of pods autoscaler wants to allocate"),
                ("requested_pods", "Number of pods autoscaler requested"),
                ("actual_pods", "Number of pods that are allocated currently"),
                ("not_ready_pods", "Number of pods that are not ready currently"),
                ("pending_pods", "Number of pods that are pending currently"),
                ("terminating_pods", "Number of pods that are terminating currently"),
                ("panic_mode", "1 if autoscaler is in panic mode, 0 otherwise"),
                (
                    "stable_request_concurrency",
                    "Average of requests count per observed pod over the stable window",
                ),
                (
                    "panic_request_concurrency",
                    "Average of requests count per observed pod over the panic window",
                ),
                ("target_concurrency_per_pod", "The desired number of concurrent requests for each pod"),
                ("excess_burst_capacity", "Excess burst capacity overserved over the stable window"),
            )
        }
        for key in self._autoscaler.keys():  # noqa: SIM118  # a method of the autoscaler
            record = self._registry.store.get(Key(resources.REVISION, key.namespace, key.name))
            if record is None:
                continue
            labels = objects.labels_of(record.obj)
            values = [
                key.namespace,
                labels.get(SERVICE_LABEL, ""),
                labels.get(CONFIGURATION_LABEL, ""),
                key.name,
            ]
            status = self._autoscaler.status(key)
            for name, value in self._values(status, record.obj["metadata"]["uid"]).items():
                families[name].add_metric(values, value)
        yield from families.values()

    def _values(self, status: AutoscalerStatus, uid: str) -> Mapping[str, float]:
        pods = [
            record.obj for record in self._registry.store.owned(uid) if record.key.resource == resources.POD
        ]
        ending = [pod for pod in pods if pod["metadata"].get("deletionTimestamp")]
        pending = [pod for pod in pods if pod not in ending and pod["status"]["phase"] == "Pending"]
        return {
            "desired_pods": status.wanted if status.wanted is not None else status.decision.replicas,
            "requested_pods": status.decision.replicas,
            "actual_pods": status.ready,
            "not_ready_pods": max(0, status.total - status.ready - len(pending)),
            "pending_pods": len(pending),
            "terminating_pods": len(ending),
            "panic_mode": float(status.panicking),
            "stable_request_concurrency": status.stable_average,
            "panic_request_concurrency": status.panic_average,
            "target_concurrency_per_pod": status.target,
            "excess_burst_capacity": status.excess_burst_capacity,
        }

    def _replicas(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "pilotlight_replicas",
            "Replicas by state: pending, starting, ready, ending",
            labels=(*_REVISION_LABELS, "state"),
        )
        counts: dict[tuple[str, str, str, str], int] = {}
        for record in self._registry.store.list(resources.POD):
            labels = objects.labels_of(record.obj)
            identity = (
                record.key.namespace,
                labels.get(SERVICE_LABEL, ""),
                labels.get(REVISION_LABEL, ""),
                _state(record.obj),
            )
            counts[identity] = counts.get(identity, 0) + 1
        for values, count in counts.items():
            family.add_metric(list(values), count)
        yield family

    def _gpus(self) -> Iterator[Metric]:
        seconds = CounterMetricFamily(
            "pilotlight_gpu_seconds",
            "GPU slot seconds held by replicas: starting, busy with a request, or idle",
            labels=(*_REVISION_LABELS, "state"),
        )
        for total in self._meter.totals():
            labels = [total.key.namespace, total.service, total.key.name]
            for state in ("busy", "idle", "starting"):
                seconds.add_metric([*labels, state], getattr(total, state))
        yield seconds
        slots = GaugeMetricFamily("pilotlight_gpu_slots", "GPU slots of the machine", labels=("state",))
        slots.add_metric(["free"], self._slots.free)
        slots.add_metric(["held"], self._slots.total - self._slots.free)
        yield slots

    def _limits(self) -> Metric:
        family = GaugeMetricFamily(
            "pilotlight_limits", "What enforces the limits of containers", labels=("resource", "mechanism")
        )
        mechanism = self._mechanism
        family.add_metric(["memory", mechanism], 1)
        family.add_metric(["cpu", mechanism if mechanism.limits_cpu else "none"], 1)
        return family


def _state(pod: Mapping[str, Any]) -> str:
    if pod["metadata"].get("deletionTimestamp"):
        return "ending"
    if objects.condition_status(pod) == "True":
        return "ready"
    return "starting" if objects.condition_status(pod, "PodScheduled") == "True" else "pending"
