"""Replicas that share a device take turns, in the order in which they asked, and never wait for the dead."""

import asyncio
import signal
import subprocess
import sys

import pytest

from functions.engines.vllm.device import DeviceTurn
from tests.functions.servers import wait_until

HOLDER = """
import asyncio, sys
from pathlib import Path
from functions.engines.vllm.device import DeviceTurn
turn = DeviceTurn(Path(sys.argv[1]))
asyncio.run(turn.acquire())
print("held", flush=True)
sys.stdin.read()
turn.release()
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


async def test_a_free_device_is_had_at_once_and_holding_it_twice_is_no_harm(tmp_path):
    turn = DeviceTurn(tmp_path / "gpu0")
    await turn.acquire()
    await turn.acquire()
    assert turn.held
    assert not turn.others_waiting()
    turn.release()
    turn.release()
    assert not turn.held


async def test_turns_come_in_the_order_of_asking(tmp_path):
    turns = [DeviceTurn(tmp_path / "gpu0") for _ in range(5)]
    order: list[int] = []

    async def use(number: int) -> None:
        await turns[number].acquire()
        order.append(number)
        turns[number].release()

    await turns[0].acquire()
    waiting = []
    for number in (3, 1, 4, 2):
        waiting.append(asyncio.create_task(use(number)))
        await wait_until(lambda number=number: turns[number].held)
    assert turns[0].others_waiting()
    assert order == []
    turns[0].release()
    await asyncio.gather(*waiting)
    assert order == [3, 1, 4, 2]


async def test_devices_of_other_names_are_no_concern(tmp_path):
    first, second = DeviceTurn(tmp_path / "gpu0"), DeviceTurn(tmp_path / "gpu1")
    await first.acquire()
    await asyncio.wait_for(second.acquire(), 5)
    first.release()
    second.release()


async def test_who_gives_up_waiting_leaves_the_queue(tmp_path):
    holding, impatient, patient = (DeviceTurn(tmp_path / "gpu0") for _ in range(3))
    await holding.acquire()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(impatient.acquire(), 0.2)
    assert not impatient.held
    waiting = asyncio.create_task(patient.acquire())
    await wait_until(lambda: patient.held)
    holding.release()
    await asyncio.wait_for(waiting, 5)
    patient.release()


async def test_another_process_is_waited_for_until_it_lets_go(tmp_path, holder):
    turn = DeviceTurn(tmp_path / "gpu0")
    waiting = asyncio.create_task(turn.acquire())
    await wait_until(lambda: turn.held)
    assert not waiting.done()
    holder.stdin.close()
    await asyncio.wait_for(waiting, 10)
    turn.release()


async def test_a_process_that_is_killed_lets_go(tmp_path, holder):
    turn = DeviceTurn(tmp_path / "gpu0")
    waiting = asyncio.create_task(turn.acquire())
    await wait_until(lambda: turn.held)
    assert not waiting.done()
    holder.send_signal(signal.SIGKILL)
    await asyncio.wait_for(waiting, 10)
    turn.release()
