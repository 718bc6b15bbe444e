"""Replicas that share a device get it in the order of their requests, and do not wait for a dead process."""

import asyncio
import signal
import subprocess
import sys

import pytest

from functions.engines.vllm.device_lock import DeviceLock
from tests.functions.servers import wait_until

HOLDER = """
import asyncio, sys
from pathlib import Path
from functions.engines.vllm.device_lock import DeviceLock
lock = DeviceLock(Path(sys.argv[1]))
asyncio.run(lock.acquire())
print("held", flush=True)
sys.stdin.read()
lock.release()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that has the device."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "gpu0")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


async def test_a_free_device_is_acquired_at_once_and_acquiring_it_again_has_no_effect(tmp_path):
    lock = DeviceLock(tmp_path / "gpu0")
    await lock.acquire()
    await lock.acquire()
    assert lock.held
    assert not lock.others_waiting()
    lock.release()
    lock.release()
    assert not lock.held


async def test_the_device_is_granted_in_the_order_of_the_requests(tmp_path):
    locks = [DeviceLock(tmp_path / "gpu0") for _ in range(5)]
    order: list[int] = []

    async def use(number: int) -> None:
        await locks[number].acquire()
        order.append(number)
        locks[number].release()

    await locks[0].acquire()
    waiting = []
    for number in (3, 1, 4, 2):
        waiting.append(asyncio.create_task(use(number)))
        await wait_until(lambda number=number: locks[number].held)
    assert locks[0].others_waiting()
    assert order == []
    locks[0].release()
    await asyncio.gather(*waiting)
    assert order == [3, 1, 4, 2]


async def test_other_devices_are_independent(tmp_path):
    first, second = DeviceLock(tmp_path / "gpu0"), DeviceLock(tmp_path / "gpu1")
    await first.acquire()
    await asyncio.wait_for(second.acquire(), 5)
    first.release()
    second.release()


async def test_a_cancelled_wait_leaves_the_queue(tmp_path):
    holding, impatient, patient = (DeviceLock(tmp_path / "gpu0") for _ in range(3))
    await holding.acquire()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(impatient.acquire(), 0.2)
    assert not impatient.held
    waiting = asyncio.create_task(patient.acquire())
    await wait_until(lambda: patient.held)
    holding.release()
    await asyncio.wait_for(waiting, 5)
    patient.release()


async def test_a_device_held_by_another_process_is_waited_for(tmp_path, holder):
    lock = DeviceLock(tmp_path / "gpu0")
    waiting = asyncio.create_task(lock.acquire())
    await wait_until(lambda: lock.held)
    assert not waiting.done()
    holder.stdin.close()
    await asyncio.wait_for(waiting, 10)
    lock.release()


async def test_a_killed_process_releases_the_device(tmp_path, holder):
    lock = DeviceLock(tmp_path / "gpu0")
    waiting = asyncio.create_task(lock.acquire())
    await wait_until(lambda: lock.held)
    assert not waiting.done()
    holder.send_signal(signal.SIGKILL)
    await asyncio.wait_for(waiting, 10)
    lock.release()
