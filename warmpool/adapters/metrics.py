"""Prometheus metrics of the controller itself, collected from its state when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

if TYPE_CHECKING:
    from warmpool.controller.runner import Controller

_POOL: Final = ("namespace", "pool", "target")


class ControllerMetrics:
    """A collector over one controller; nothing is global."""

    def __init__(self, controller: Controller) -> None:
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
            name: GaugeMetricFamily(f"pilotlight_warmpool_{name}", about, labels=_POOL)
            for name, about in (
                ("floor", "Replicas that the pool holds"),
                ("desired", "Replicas that its rules ask for, before limits and budget"),
                ("ready", "Replicas of the target that can answer"),
                ("lead_seconds", "How much earlier than a window the floor rises"),
                ("budget_left", "What is left of the budget in its period, in its currency"),
                ("failures", "Reconciliations in a row whose writes the API did not take"),
            )
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
        for key, state in self._controller.states.items():
            pool = self._controller.cache.pools.get(key)
            if pool is None or pool.spec is None or state.decision is None:
                continue
            labels = [*key, pool.spec.target]
            decision = state.decision
            gauges["floor"].add_metric(labels, decision.floor.replicas)
            asked = max((ask.floor.replicas for ask in decision.proposals), default=0)
            gauges["desired"].add_metric(labels, asked)
            gauges["ready"].add_metric(labels, state.ready)
            gauges["lead_seconds"].add_metric(labels, state.lead_s)
            gauges["failures"].add_metric(labels, state.failures)
            if state.budget_left is not None:
                gauges["budget_left"].add_metric(labels, float(state.budget_left))
            reason.add_metric([*labels, decision.reason], 1)
            if state.account is not None:
                for why, amount in state.account.by_reason.items():
                    cost.add_metric([*labels, why, self._controller.currency], float(amount))
                gpu.add_metric([*labels, "busy"], state.account.busy_gpu_s)
                gpu.add_metric([*labels, "idle"], state.account.idle_gpu_s)
        yield from (*gauges.values(), reason, cost, gpu)

    def _loop(self) -> Iterator[Metric]:
        counts = self._controller.counts
        for name, about, value in (
            ("reconciles", "Reconciliations of a pool", counts.reconciles),
            ("decisions", "Floors that were moved", counts.floors),
            ("writes", "Requests that changed something in the cluster", counts.writes),
            ("errors", "Writes and judgements that failed", counts.errors),
            ("wakes", "Wake-up requests sent", counts.wakes),
        ):
            yield CounterMetricFamily(f"pilotlight_warmpool_{name}", about, value=value)
        yield GaugeMetricFamily(
            "pilotlight_warmpools", "Pools there are", value=len(self._controller.cache.pools)
        )
        last = self._controller.reconciled_at
        if last is not None:
            yield GaugeMetricFamily(
                "pilotlight_warmpool_last_pass_timestamp_seconds",
                "When all pools were last reconciled",
                value=last.timestamp(),
            )
        trouble = self._controller.demand_trouble
        yield GaugeMetricFamily(
            "pilotlight_warmpool_demand_readable", "1 while demand can be read", value=0 if trouble else 1
        )
