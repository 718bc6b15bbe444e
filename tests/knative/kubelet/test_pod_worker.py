"""A pod's worker goes on, whatever an object makes of its containers' start."""

import asyncio
from datetime import UTC, datetime

from knative.client.resources import POD
from knative.local.apiserver.store import Key
from knative.local.kubelet.gpus import GpuSlots
from knative.local.kubelet.limit_enforcer import LimitEnforcer
from knative.local.kubelet.logs import ContainerLogs
from knative.local.kubelet.pod_runtime import PodRuntime
from knative.local.kubelet.pod_worker import PodWorker
from knative.local.kubelet.ports import PortAllocator
from knative.local.kubelet.probes import Prober
from knative.local.kubelet.volumes import Volumes

KEY = Key(POD, "default", "a")


async def test_an_unexpected_error_is_a_failed_start_with_back_off(tmp_path):
    events: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
    statuses: list[dict] = []

    def broken(namespace: str, name: str) -> dict:
        raise ZeroDivisionError("odd object")

    async def nothing(*_: object) -> bool:
        return True

    runtime = PodRuntime(
        host="127.0.0.1",
        workdir=tmp_path,
        base_env={},
        service_env=lambda _: {},
        identity_env={},
        backoff_s=60.0,
        ports=PortAllocator("127.0.0.1"),
        prober=Prober("127.0.0.1"),
        logs=ContainerLogs(tmp_path),
        slots=GpuSlots(1),
        volumes=Volumes(tmp_path / "volumes", tmp_path / "claims"),
        limits=LimitEnforcer("unused", None),
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
    env = [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "odd", "key": "k"}}}]
    gpu = {"resources": {"limits": {"nvidia.com/gpu": "1"}}}
    container = {"name": "main", "command": ["sleep", "1"], "env": env, **gpu}
    worker = PodWorker(KEY, {"metadata": {"uid": "u"}, "spec": {"containers": [container]}}, runtime)
    running = asyncio.create_task(worker.run())
    seen = [await asyncio.wait_for(events.get(), 10) for _ in range(2)]
    assert [reason for reason, _ in seen] == ["Failed", "BackOff"]
    assert "internal error: ZeroDivisionError('odd object')" in seen[0][1]
    (state,) = statuses[-1]["containerStatuses"]
    assert state["state"]["waiting"]["reason"] == "CreateContainerError"
    assert not running.done()
    worker.terminate(grace_s=0)
    await asyncio.wait_for(running, 10)
    assert runtime.slots.free == 1
