"""The autoscaler over minutes of virtual time: from zero, between, and to zero, as Knative does it."""

import asyncio
import dataclasses

import pytest

from knative.autoscaling import annotations
from knative.autoscaling.annotations import AutoscalingSpec, Metric
from knative.autoscaling.config import AutoscalerConfig
from knative.autoscaling.scaler import ActiveStatus, ServingMode
from knative.local.controllers.autoscaler import Autoscaler
from knative.local.routing import RevisionKey, RevisionSpec
from knative.local.stats import RevisionStat

KEY = RevisionKey("default", "a-00001")


class Machine:
    """A clock, one autoscaler and replicas that start after `start_s` and stop at once."""

    def __init__(self, start_s=0.0, **autoscaling):
        self.now = 1_000.0
        self.start_s = start_s
        self.decisions = []
        self.starting = []
        self.ready = 0
        self.seconds = 0
        self.autoscaler = Autoscaler(lambda: self.now, self.on_scale)
        self.spec = self.make(**autoscaling)

    def make(self, container_concurrency=0, reachable=True, progress_deadline_s=600.0, **autoscaling):
        return RevisionSpec(
            KEY, "a", container_concurrency=container_concurrency, autoscaling=AutoscalingSpec(**autoscaling),
            reachable=reachable, progress_deadline_s=progress_deadline_s,
        )  # fmt: skip

    def on_scale(self, key, decision):
        assert key == KEY
        self.decisions.append((self.now, decision))

    @property
    def decision(self):
        return self.decisions[-1][1]

    def settle(self):
        """Bring the replicas in line with the decision."""
        while True:
            wanted = self.decision.replicas
            self.starting = [at for at in self.starting if at > self.now] if self.start_s else self.starting
            if self.start_s == float("inf"):
                self.ready = 0
            elif self.start_s == 0 or wanted <= self.ready:
                self.ready = wanted
            self.autoscaler.set_pods(KEY, self.ready, wanted)
            if self.decision.replicas == wanted:
                return

    def add(self, **options):
        self.autoscaler.set_revision(self.spec, **options)
        self.settle()

    def report(self, concurrency, requests=None):
        self.autoscaler.record(
            [RevisionStat(KEY, self.now, concurrency, concurrency if requests is None else requests)]
        )
        self.settle()

    def run(self, seconds, concurrency=None, requests=None):
        for _ in range(round(seconds)):
            self.now += 1
            self.seconds += 1
            if concurrency is not None:
                self.report(concurrency, requests)
            self.autoscaler.second()
            self.settle()
            if self.seconds % 2 == 0:
                self.autoscaler.tick()
                self.settle()

    def first_time(self, replicas):
        return next(at for at, decision in self.decisions if decision.replicas == replicas)


def test_a_new_revision_starts_its_initial_scale_and_goes_to_zero_without_traffic():
    machine = Machine()
    machine.add()
    assert machine.decision.replicas == 1
    assert machine.decision.active is ActiveStatus.TRUE
    machine.run(59)
    assert machine.decision.replicas == 1
    machine.run(12)
    assert machine.decision.replicas == 0
    assert (machine.decision.active, machine.decision.reason) == (ActiveStatus.FALSE, "NoTraffic")
    assert 60 <= machine.first_time(0) - 1_000 <= 67


def test_a_request_at_zero_scales_up_at_once():
    machine = Machine()
    machine.add(remembered=0)
    assert machine.decision.replicas == 0
    machine.report(1)
    assert machine.decision.replicas == 1
    assert machine.decisions[-1][0] == 1_000.0


def test_while_a_replica_starts_the_condition_says_queued():
    machine = Machine(start_s=float("inf"))
    machine.add(remembered=0)
    machine.report(1)
    assert (machine.decision.replicas, machine.decision.active) == (1, ActiveStatus.UNKNOWN)
    assert machine.decision.reason == "Queued"


def test_the_last_replica_goes_one_window_after_the_last_request():
    machine = Machine()
    machine.add(remembered=0)
    machine.run(100, concurrency=1)
    machine.report(0)
    end = machine.now
    machine.run(90)
    gone = machine.first_time(0) if machine.decisions[0][1].replicas else machine.decisions[-1][0]
    assert machine.decision.replicas == 0
    assert 60 <= gone - end <= 68


def test_the_scale_follows_concurrency_over_target():
    machine = Machine(container_concurrency=10)
    machine.add()
    machine.run(120, concurrency=35)
    assert machine.decision.replicas == 5  # 35 / (10 * 0.7)


def test_a_burst_causes_panic_during_which_the_scale_does_not_fall():
    machine = Machine(target=10.0)
    machine.add()
    machine.run(60, concurrency=7)
    machine.run(6, concurrency=70)
    assert machine.autoscaler.status(KEY).panicking
    assert machine.decision.replicas == 10
    machine.run(40, concurrency=7)
    assert machine.decision.replicas == 10
    machine.run(120, concurrency=7)
    assert not machine.autoscaler.status(KEY).panicking
    assert machine.decision.replicas == 1


def test_the_scale_falls_by_at_most_half():
    machine = Machine(target=1.0, target_utilization_percentage=100.0)
    machine.add()
    machine.run(150, concurrency=8)
    assert machine.decision.replicas == 8
    peak = len(machine.decisions)
    machine.report(0)
    machine.run(200)
    counts = [decision.replicas for _, decision in machine.decisions[peak:]]
    steps = [count for at, count in enumerate(counts) if at == 0 or counts[at - 1] != count]
    assert steps[-1] == 0
    assert all(after >= before // 2 for before, after in zip([8, *steps], steps, strict=False))


def test_a_raised_floor_acts_at_once_without_traffic():
    machine = Machine()
    machine.add(remembered=0)
    machine.autoscaler.set_revision(machine.make(min_scale=3))
    assert machine.decision.replicas == 3
    assert machine.decision.active is ActiveStatus.UNKNOWN
    machine.settle()
    assert machine.decision.active is ActiveStatus.TRUE


def test_after_a_floor_is_lowered_the_windows_decide():
    machine = Machine(min_scale=4)
    machine.add()
    machine.run(120)
    assert machine.decision.replicas == 4
    machine.autoscaler.set_revision(machine.make())
    machine.settle()
    lowered = machine.now
    machine.run(60)
    assert machine.decision.replicas == 0
    counts = [decision.replicas for at, decision in machine.decisions if at >= lowered]
    assert [count for at, count in enumerate(counts) if at == 0 or counts[at - 1] != count] == [2, 1, 0]
    assert machine.decisions[-1][0] - lowered <= 35


def test_a_floor_that_is_withdrawn_while_its_replica_starts_is_gone_a_window_after_that_is_ready():
    machine = Machine(start_s=float("inf"))
    machine.add(remembered=0)
    machine.autoscaler.set_revision(machine.make(min_scale=1))
    machine.settle()
    machine.run(5)
    machine.autoscaler.set_revision(machine.make())
    machine.settle()
    machine.run(20)
    assert machine.decision.active is ActiveStatus.UNKNOWN
    machine.start_s = 0.0  # now it is ready
    machine.settle()
    assert (machine.decision.replicas, machine.decision.active) == (1, ActiveStatus.TRUE)
    machine.run(59)
    assert machine.decision.replicas == 1
    machine.run(12)
    assert machine.decision.replicas == 0


def test_an_unreachable_revision_ignores_its_floor():
    machine = Machine(min_scale=4, reachable=False)
    machine.add(remembered=0)
    assert machine.decision.replicas == 0


def test_becoming_unreachable_drops_the_floor():
    machine = Machine(min_scale=4)
    machine.add()
    machine.run(70)
    assert machine.decision.replicas == 4
    machine.autoscaler.set_revision(machine.make(min_scale=4, reachable=False))
    machine.settle()
    machine.run(40)
    assert machine.decision.replicas == 0


def test_max_scale_bounds_the_desired_scale():
    machine = Machine(max_scale=3, container_concurrency=1)
    machine.add()
    machine.run(30, concurrency=50)
    assert machine.decision.replicas == 3
    assert machine.autoscaler.status(KEY).wanted > 3


def test_scaling_from_zero_begins_at_the_activation_scale():
    machine = Machine(activation_scale=4)
    machine.add(remembered=0)
    machine.report(1)
    assert machine.decision.replicas == 4


def test_the_initial_scale_counts_until_it_has_been_reached():
    machine = Machine(initial_scale=3, start_s=float("inf"))
    machine.add()
    assert machine.decision.replicas == 3
    machine.run(100)
    assert machine.decision.replicas == 3
    assert not machine.decision.initialized
    machine.start_s = 0
    machine.settle()
    assert machine.decision.initialized
    machine.run(70)
    assert machine.decision.replicas < 3


def test_a_start_past_its_progress_deadline_is_scaled_to_zero():
    machine = Machine(start_s=float("inf"), progress_deadline_s=100.0)
    machine.add()
    machine.run(129)
    assert machine.decision.replicas == 1
    machine.run(3)
    assert machine.decision.replicas == 0
    assert "TimedOut" in [decision.reason for _, decision in machine.decisions]


def test_the_retention_period_keeps_the_last_replica_longer():
    machine = Machine(pod_retention_s=90.0)
    machine.add()
    machine.run(60 + 85)
    assert (machine.decision.replicas, machine.decision.active) == (1, ActiveStatus.FALSE)
    machine.run(15)
    assert machine.decision.replicas == 0


def test_scale_down_delay_keeps_the_largest_desired_scale():
    machine = Machine(target=1.0, target_utilization_percentage=100.0, scale_down_delay_s=120.0, window_s=6.0)
    machine.add()
    machine.run(20, concurrency=4)
    machine.report(0)
    machine.run(100)
    assert machine.decision.replicas == 4
    machine.run(60)
    assert machine.decision.replicas == 2  # halves, and each half is held in its turn
    machine.run(260)
    assert machine.decision.replicas == 0


def test_the_metric_can_be_requests_per_second():
    machine = Machine(metric=Metric.RPS, target=10.0)
    machine.add()
    machine.run(120, concurrency=0.1, requests=35)
    assert machine.decision.replicas == 5


def test_with_excess_burst_capacity_requests_bypass_the_activator():
    machine = Machine(target_burst_capacity=0.0)
    machine.add()
    machine.run(10, concurrency=1)
    assert machine.autoscaler.status(KEY).serving_mode is ServingMode.SERVE
    machine.report(0)
    stopped = machine.now
    machine.run(120)
    assert machine.decision.replicas == 0
    assert machine.decisions[-1][0] - stopped > 85  # the grace period comes on top


def test_by_default_requests_go_through_the_activator():
    machine = Machine()
    machine.add()
    machine.run(10, concurrency=1)
    assert machine.autoscaler.status(KEY).serving_mode is ServingMode.PROXY


def test_the_scale_before_a_restart_is_kept():
    machine = Machine(start_s=float("inf"))
    machine.add(remembered=4)
    assert machine.decision.replicas == 4
    assert machine.decision.initialized
    machine.run(30)
    assert machine.decision.replicas == 4
    machine.start_s = 0
    machine.settle()
    machine.run(30)
    assert machine.decision.replicas == 4  # in panic: no history yet
    machine.run(120)
    assert machine.decision.replicas == 0


def test_a_longer_window_keeps_its_content():
    machine = Machine(container_concurrency=10)
    machine.add()
    machine.run(60, concurrency=35)
    machine.autoscaler.set_revision(machine.make(container_concurrency=10, window_s=120.0))
    machine.run(10, concurrency=35)
    assert machine.decision.replicas == 5


def configured(machine, **settings):
    """The machine's Revision under another `config-autoscaler`."""
    config = AutoscalerConfig(**settings)
    return dataclasses.replace(machine.spec, scaling_config=config, autoscaling=annotations.parse({}, config))


def test_a_changed_configuration_acts_on_a_revision_under_load():
    machine = Machine()
    machine.add()
    machine.run(60, concurrency=35)
    assert machine.decision.replicas == 1
    machine.autoscaler.set_revision(
        configured(machine, container_concurrency_target_default=10.0, max_scale_up_rate=3.0)
    )
    machine.run(2, concurrency=35)
    assert machine.decision.replicas == 3  # as fast as the new rate lets it
    machine.run(2, concurrency=35)
    assert machine.decision.replicas == 5
    machine.autoscaler.set_revision(configured(machine, max_scale=2))
    assert machine.decision.replicas == 2


def test_a_shorter_window_and_grace_period_end_sooner_at_zero():
    machine = Machine()
    machine.add()
    machine.run(60, concurrency=1)
    machine.autoscaler.set_revision(
        configured(machine, stable_window_s=6.0, scale_to_zero_grace_period_s=2.0)
    )
    machine.run(14)
    assert machine.decision.replicas == 0


def test_a_revision_at_zero_comes_back_when_scale_to_zero_is_disabled():
    machine = Machine()
    machine.add(remembered=0)
    assert machine.decision.replicas == 0
    machine.autoscaler.set_revision(configured(machine, enable_scale_to_zero=False))
    assert machine.decision.replicas == 1


def test_an_idle_revision_is_not_looked_at():
    machine = Machine()
    machine.add()
    machine.run(80)
    assert machine.decision.replicas == 0
    machine.run(70)
    assert machine.autoscaler.awake == 0
    machine.report(1)
    assert machine.autoscaler.awake == 1
    assert machine.decision.replicas == 1


def test_a_revision_scales_to_zero_after_a_suspended_machine_resumes():
    machine = Machine()
    machine.add(remembered=0)
    machine.run(10, concurrency=1)
    machine.now += 3_600
    machine.run(70)
    assert machine.decision.replicas == 0


def test_a_forgotten_revision_is_gone():
    machine = Machine()
    machine.add()
    machine.autoscaler.forget(KEY)
    with pytest.raises(KeyError):
        machine.autoscaler.status(KEY)
    machine.autoscaler.record([RevisionStat(KEY, machine.now, 1, 1)])
    machine.autoscaler.set_pods(KEY, 1, 1)
    machine.autoscaler.tick()


async def test_it_decides_on_its_own_clock():
    loop = asyncio.get_running_loop()
    decisions = []
    autoscaler = Autoscaler(loop.time, lambda _, decision: decisions.append(decision.replicas))
    autoscaler.set_revision(RevisionSpec(KEY, "a", autoscaling=AutoscalingSpec(target=1.0)), remembered=0)
    running = asyncio.create_task(autoscaler.run())
    try:
        autoscaler.record([RevisionStat(KEY, loop.time(), 1, 1)])
        assert decisions[-1] == 2
        async with asyncio.timeout(10):
            while decisions[-1] < 5:
                await asyncio.sleep(0.2)
                autoscaler.record([RevisionStat(KEY, loop.time(), 7, 7)])
    finally:
        running.cancel()
        await asyncio.wait([running])
