"""Measuring replicas and deciding on them, in virtual time."""

import math

from knative.hpa_spec import HpaSpec
from knative.local.horizontal import HorizontalAutoscaler
from knative.local.kubelet.usage import Usage
from knative.local.meter import Meter
from knative.local.routing import RevisionKey
from knative.utilization import CPU, MEMORY, Pod, Target

KEY = RevisionKey("default", "a-00001")
POD = ("default", "pod-0")


class Machine:
    """One Revision whose replicas each use `cores` and `memory` from their start on."""

    def __init__(self, settings, *, replicas=1, cores=0.0, memory=0):
        self.now = 1_000_000.0
        self.cores, self.memory = cores, memory
        self.readings = 0
        self.told = []
        self.scaler = HorizontalAutoscaler(
            lambda: self.now, usages=self.usages, pods=self.pods,
            on_change=lambda key, outcome: self.told.append((key, outcome)),
        )  # fmt: skip
        self.scaler.set_revision(KEY, settings, replicas=replicas)

    @property
    def replicas(self):
        return self.scaler.status(KEY).replicas

    async def usages(self):
        self.readings += 1
        used = Usage(self.cores * self.now, self.memory)
        return {(KEY.namespace, f"pod-{at}"): used for at in range(self.replicas)}

    def pods(self, key, _):
        assert key == KEY
        return [
            Pod(f"pod-{at}", ready=True, started=0.0, requests=(("main", 1000),))
            for at in range(self.replicas)
        ]

    async def beat(self):
        self.now += 15.0
        await self.scaler.beat()


def test_a_rate_takes_two_readings():
    meter = Meter()
    meter.read(100.0, {POD: Usage(7.0, 5)})
    assert meter.measured == {}
    meter.read(110.0, {POD: Usage(12.0, 9)})
    sample = meter.measured[POD].sample(CPU)
    assert (sample.value, sample.at, sample.window_s) == (500, 110.0, 10.0)
    assert meter.measured[POD].sample(MEMORY).value == 9000


def test_a_replica_that_started_anew_is_measured_anew():
    meter = Meter()
    meter.read(100.0, {POD: Usage(50.0, 5)})
    meter.read(110.0, {POD: Usage(1.0, 5)})
    assert meter.measured == {}
    meter.read(120.0, {POD: Usage(2.0, 5)})
    assert math.isclose(meter.measured[POD].cpu_cores, 0.1)
    meter.read(130.0, {})
    assert meter.measured == {}


async def test_the_second_beat_scales_by_what_was_used_between_the_two():
    machine = Machine(HpaSpec(Target(CPU, utilization=50)), cores=1.0)
    await machine.beat()
    assert (machine.replicas, machine.readings) == (1, 1)
    await machine.beat()
    assert machine.replicas == 2
    key, outcome = machine.told[-1]
    assert (key, outcome.replicas) == (KEY, 2)
    assert machine.scaler.status(KEY).scaled_at == machine.now


async def test_what_has_not_changed_is_not_told_again():
    machine = Machine(HpaSpec(Target(MEMORY, average=1000)), replicas=3, memory=1)
    for _ in range(3):
        await machine.beat()
    told = len(machine.told)
    await machine.beat()
    assert len(machine.told) == told
    assert machine.replicas == 3


async def test_without_a_revision_of_this_class_nothing_is_measured():
    machine = Machine(HpaSpec())
    machine.scaler.forget(KEY)
    await machine.scaler.beat()
    assert machine.readings == 0
    assert machine.scaler.status(KEY) is None


def test_bounds_act_without_a_beat():
    machine = Machine(HpaSpec())
    machine.scaler.set_revision(KEY, HpaSpec(least=4), replicas=1)
    assert machine.replicas == 4
    machine.scaler.set_revision(KEY, HpaSpec(most=2), replicas=1)
    assert machine.replicas == 2
    assert [outcome.replicas for _, outcome in machine.told] == [4, 2]


async def test_settings_that_kubernetes_refuses_leave_those_before_in_force():
    machine = Machine(None)
    await machine.beat()
    assert machine.scaler.status(KEY).settings is None
    machine.scaler.set_revision(KEY, HpaSpec(least=2), replicas=1)
    machine.scaler.set_revision(KEY, None, replicas=1)
    assert machine.scaler.status(KEY).settings == HpaSpec(least=2)
    assert machine.replicas == 2
