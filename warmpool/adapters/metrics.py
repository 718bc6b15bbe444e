"""Prometheus metrics of the controller itself, collected from its state at every scrape."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from warmpool.ports import ControllerStatus

_POOL: Final = ("namespace", "pool", "target")
_GAUGES: Final = {
    "floor": "Replicas that the pool holds",
    "desired": "Replicas that its rules ask for, before limits and budget",
    "requested": "Replicas that the pool's min-scales request, after max-scale and activation-scale",
    "ready": "Replicas of the target that are ready",
    "lead_seconds": "How much earlier than a window the floor rises",
    "budget_left": "What is left of the budget in its period, in its currency",
    "failures": "Reconciliations in a row of which the API refused a write",
}


class MetricsCollector:
    """A collector over one controller, with a registry of its own."""

    def __init__(self, controller: ControllerStatus) -> None:
        self._controller = controller
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def render(self) -> bytes:
        """Prometheus text."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """All metric families."""
        yield from self._pools()
        yield from self._loop()

    def _pools(self) -> Iterator[Metric]:
        gauges = {
            name: GaugeMetricFamily(f"pilotlight_warmpool_{name}", text, labels=_POOL)
            for name, text in _GAUGES.items()
        }
        cost = CounterMetricFamily(
            "pilotlight_warmpool_cost",
            "What the floor has cost in the current period, by reason",
            labels=(*_POOL, "reason", "currency"),
        )
        reason = GaugeMetricFamily(
            "pilotlight_warmpool_reason", "1 for the reason of the floor", labels=(*_POOL, "reason")
        )
        gpu = CounterMetricFamily(
            "pilotlight_warmpool_gpu_seconds",
            "GPU-seconds of the target in the current period: busy or idle",
            labels=(*_POOL, "state"),
        )
        signal = GaugeMetricFamily(
            "pilotlight_warmpool_signal", "The latest reading of a signal", labels=(*_POOL, "signal")
        )
        readable = GaugeMetricFamily(
            "pilotlight_warmpool_signal_readable",
            "1 while a signal can be read",
            labels=(*_POOL, "signal"),
        )
        phase = GaugeMetricFamily(
            "pilotlight_warmpool_rollout", "1 for the phase of the rollout", labels=(*_POOL, "phase")
        )
        percent = GaugeMetricFamily(
            "pilotlight_warmpool_rollout_percent",
            "Percent of the traffic that the newest Revision has during a rollout",
            labels=_POOL,
        )
        for pool in self._controller.pool_metrics():
            labels = [*pool.key, pool.target]
            gauges["floor"].add_metric(labels, pool.decision.floor.replicas)
            asked = max((proposal.floor.replicas for proposal in pool.decision.proposals), default=0)
            gauges["desired"].add_metric(labels, asked)
            gauges["requested"].add_metric(labels, pool.requested)
            gauges["ready"].add_metric(labels, pool.ready)
            gauges["lead_seconds"].add_metric(labels, pool.lead_s)
            gauges["failures"].add_metric(labels, pool.failures)
            if pool.budget_left is not None:
                gauges["budget_left"].add_metric(labels, pool.budget_left)
            reason.add_metric([*labels, pool.decision.reason], 1)
            for entry in pool.decision.signals:
                readable.add_metric([*labels, entry.name], 0 if entry.problem else 1)
                if entry.value is not None:
                    signal.add_metric([*labels, entry.name], entry.value)
            if pool.rollout_phase is not None:
                phase.add_metric([*labels, pool.rollout_phase], 1)
                percent.add_metric(labels, pool.rollout_percent)
            if pool.account is not None:
                for why, amount in pool.account.by_reason.items():
                    cost.add_metric([*labels, why, self._controller.currency], float(amount))
                gpu.add_metric([*labels, "busy"], pool.account.busy_gpu_s)
                gpu.add_metric([*labels, "idle"], pool.account.idle_gpu_s)
        yield from (*gauges.values(), reason, signal, readable, phase, percent, cost, gpu)

    def _loop(self) -> Iterator[Metric]:
        counts = self._controller.counts
        for name, text, value in (
            ("reconciles", "Reconciliations of a pool", counts.reconciles),
            ("decisions", "Floors that were written", counts.floors),
            ("writes", "Requests that changed something in the cluster", counts.writes),
            ("errors", "Writes and reconciliations that failed", counts.errors),
            ("wakes", "Wake-up requests sent", counts.wakes),
        ):
            yield CounterMetricFamily(f"pilotlight_warmpool_{name}", text, value=value)
        yield GaugeMetricFamily("pilotlight_warmpools", "WarmPools", value=self._controller.pool_count)
        last = self._controller.last_pass
        if last is not None:
            yield GaugeMetricFamily(
                "pilotlight_warmpool_last_pass_timestamp_seconds",
                "When all pools were last reconciled",
                value=last.timestamp(),
            )
        yield GaugeMetricFamily(
            "pilotlight_warmpool_demand_readable",
            "1 while demand can be read",
            value=0 if self._controller.demand_error else 1,
        )
