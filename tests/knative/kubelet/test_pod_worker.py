"""A pod's worker goes on, whatever an object makes of its containers' start."""

import asyncio
import os
from datetime import UTC, datetime

import pytest

from knative.client.resources import POD
from knative.local.apiserver.store import Key
from knative.local.kubelet.gpus import GpuSlots
from knative.local.kubelet.limit_enforcer import LimitEnforcer
from knative.local.kubelet.logs import ContainerLogs
from knative.local.kubelet.pod_runtime import PodRuntime
from knative.local.kubelet.pod_worker import PodWorker
from knative.local.kubelet.ports import PortAllocator
from knative.local.kubelet.preimported import Forkserver
from knative.local.kubelet.probes import Prober, ProbeResult
from knative.local.kubelet.volumes import Volumes

KEY = Key(POD, "default", "a")


class BrokenProber(Prober):
    """Fails in a way that no probe should."""

    async def attempt(self, *_: object) -> ProbeResult:
        raise ZeroDivisionError("odd probe")


def broken(namespace: str, name: str) -> dict:
    raise ZeroDivisionError("odd object")


@pytest.fixture
def events() -> asyncio.Queue[tuple[str, str]]:
    return asyncio.Queue()


@pytest.fixture
def statuses() -> list[dict]:
    return []


@pytest.fixture
def runtime(tmp_path, events, statuses) -> PodRuntime:
    async def nothing(*_: object) -> bool:
        return True

    return PodRuntime(
        host="127.0.0.1",
        workdir=tmp_path,
        base_env={"PATH": os.environ["PATH"]},
        service_env=lambda _: {},
        identity_env={},
        backoff_s=60.0,
        ports=PortAllocator("127.0.0.1"),
        prober=BrokenProber("127.0.0.1"),
        logs=ContainerLogs(tmp_path),
        slots=GpuSlots(1),
        volumes=Volumes(tmp_path / "volumes", tmp_path / "claims"),
        limits=LimitEnforcer("unused", None),
        forkserver=Forkserver(None, {}, {}, tmp_path),
        now=lambda: datetime.now(UTC),
        config_maps=broken,
        secrets=broken,
        write_status=lambda _, status, __: statuses.append(status),
        slot_released=nothing,
        emit_event=lambda _, __, reason, message: events.put_nowait((reason, message)),
        on_scheduled=lambda _: None,
        on_ready=lambda *_: None,
        drained=nothing,
    )


ODD_ENV = {"env": [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "odd", "key": "k"}}}]}


@pytest.mark.parametrize(
    ("container", "problem"),
    [(ODD_ENV, "ZeroDivisionError('odd object')"), ({}, "ZeroDivisionError('odd probe')")],
    ids=["at its start", "while it is probed"],
)
async def test_an_unexpected_error_is_a_failure_with_back_off(runtime, events, statuses, container, problem):
    spec = {
        "name": "main",
        "command": ["sleep", "600"],
        "resources": {"limits": {"nvidia.com/gpu": "1"}},
        **container,
    }
    worker = PodWorker(KEY, {"metadata": {"uid": "u"}, "spec": {"containers": [spec]}}, runtime)
    running = asyncio.create_task(worker.run())
    seen = [await asyncio.wait_for(events.get(), 10) for _ in range(2)]
    assert [reason for reason, _ in seen] == ["Failed", "BackOff"]
    assert "internal error" in seen[0][1]
    assert problem in seen[0][1]
    (state,) = statuses[-1]["containerStatuses"]
    assert state["state"]["waiting"]["reason"] == "CreateContainerError"
    assert not running.done()
    worker.terminate(grace_s=0)
    await asyncio.wait_for(running, 10)
    assert runtime.slots.free == 1
