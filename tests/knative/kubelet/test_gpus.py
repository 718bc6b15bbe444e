"""GPU slots and the seconds for which they are held."""

from knative.local.kubelet.gpus import GpuMeter, GpuSlots, device_environment
from knative.local.routing import RevisionKey

KEY = RevisionKey("default", "a-00001")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self.busy = 0.0

    def __call__(self) -> float:
        return self.now

    def busy_seconds(self, _: RevisionKey) -> float:
        return self.busy


def test_the_lowest_free_slots_are_taken_or_none():
    slots = GpuSlots(3)
    assert slots.take("a", 2) == (0, 1)
    assert slots.take("b", 2) is None
    assert slots.take("c", 0) == ()
    slots.release("a")
    assert (slots.free, slots.take("b", 3)) == (3, (0, 1, 2))


def test_a_placeholder_names_no_device(tmp_path, monkeypatch):
    monkeypatch.setattr("knative.local.kubelet.gpus.DEVICES", tmp_path)
    assert device_environment((0,)) == {}
    (tmp_path / "nvidia0").touch()
    assert device_environment((0,))["CUDA_VISIBLE_DEVICES"] == "0"
    assert device_environment((0, 1)) == {}


def test_slot_seconds_are_starting_then_busy_or_idle():
    clock = Clock()
    meter = GpuMeter(clock, clock.busy_seconds)
    meter.begin("p", KEY, "a", 2)
    clock.now = 5.0
    meter.set_ready("p", ready=True)
    clock.now, clock.busy = 15.0, 4.0
    (total,) = meter.totals()
    assert (total.starting, total.busy, total.idle) == (10.0, 8.0, 12.0)
    meter.end("p")
    clock.now = 99.0
    (after,) = meter.totals()
    assert after == total


def test_a_revision_created_again_continues_its_counters():
    clock = Clock()
    meter = GpuMeter(clock, clock.busy_seconds)
    meter.begin("p", KEY, "a", 1)
    meter.set_ready("p", ready=True)
    clock.now, clock.busy = 10.0, 6.0
    meter.end("p")
    meter.settle(KEY)
    clock.busy = 0.0  # the activator has forgotten the Revision
    meter.begin("q", KEY, "a", 1)
    meter.set_ready("q", ready=True)
    clock.now, clock.busy = 20.0, 1.0
    (total,) = meter.totals()
    assert (total.busy, total.idle) == (7.0, 13.0)
