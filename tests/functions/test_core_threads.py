"""Threads of an engine core that computes itself: what they leave to each other, with vLLM's own code."""

import json
import os
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from functions.contract import Parameters
from functions.engine import GenerateRequest
from functions.engines.vllm import core_threads, options, processes
from functions.engines.vllm.client import VllmEngine
from weights import processors

pytestmark = pytest.mark.vllm

OUTPUTS = """
import json, queue, sys, threading
import zmq
from functions.engines.vllm import core_threads, ground
ground.quieten()
from vllm.v1.engine import EngineCoreOutputs
from vllm.v1.engine.core import EngineCoreProc
from vllm.v1.serial_utils import MsgpackDecoder
core_threads.hand_over_outputs()
core = EngineCoreProc.__new__(EngineCoreProc)
core.output_queue = queue.Queue()
core.output_queue.put_nowait((0, EngineCoreOutputs(wave_complete=0)))  # before anybody sends
context = zmq.Context()
receiver = context.socket(zmq.PULL)
receiver.bind(sys.argv[1])
sender = threading.Thread(target=core.process_output_sockets, args=([sys.argv[1]], None, 7))
sender.start()
waiting = []
for number in range(1, 200):
    core.output_queue.put_nowait((0, EngineCoreOutputs(wave_complete=number)))
    waiting.append(core.output_queue.qsize())
decoder = MsgpackDecoder(EngineCoreOutputs)
arrived = [decoder.decode(receiver.recv_multipart()) for _ in range(200)]
core.output_queue.put_nowait(EngineCoreProc.ENGINE_CORE_DEAD)
sender.join(10)
context.destroy(linger=0)
print(json.dumps({
    "in order": [one.wave_complete for one in arrived] == list(range(200)),
    "engines": sorted({one.engine_index for one in arrived}),
    "waiting": sum(waiting[10:]),
    "ended": not sender.is_alive(),
}))
"""


def test_outputs_have_left_the_core_before_it_takes_the_next_step(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", OUTPUTS, f"ipc://{tmp_path}/out"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.strip().rpartition("\n")[2])
    waiting = said.pop("waiting")
    assert said == {"in order": True, "engines": [7], "ended": True}
    # A thread that gets no processor within the patience may leave one of them; without a hand-over most wait.
    assert waiting < 10


PRIORITIES = """
import json, os, threading
os.environ["OMP_NUM_THREADS"] = "3"
import torch
import zmq
from functions.engines.vllm import core_threads
torch.set_num_threads(3)
before = os.listdir("/proc/self/task")
torch.ones(1 << 22).sum()
pool = {int(one) for one in os.listdir("/proc/self/task") if one not in before}
context = zmq.Context()
socket = context.socket(zmq.PULL)  # starts ZeroMQ's threads
stop = threading.Event()
sender = threading.Thread(target=stop.wait)
sender.start()
named = {one: open(f"/proc/self/task/{one}/comm").read() for one in os.listdir("/proc/self/task")}
zeromq = [int(one) for one, name in named.items() if name.startswith("ZMQ")]
usual = os.getpriority(os.PRIO_PROCESS, 0)
core_threads.lower_computing_threads()
def nicer(threads):
    return sorted({os.getpriority(os.PRIO_PROCESS, one) - usual for one in threads})
print(json.dumps({"main": nicer([os.getpid()]), "pool": nicer(pool), "sender": nicer([sender.native_id]),
                  "zeromq": nicer(zeromq), "of the pool": len(pool)}))
stop.set()
socket.close()
context.term()
"""


def test_threads_that_compute_give_way_to_those_that_carry():
    done = subprocess.run(
        [sys.executable, "-c", PRIORITIES], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.strip().rpartition("\n")[2])
    nicer = [min(core_threads.NICER, 19 - os.getpriority(os.PRIO_PROCESS, 0))]
    assert said.pop("of the pool") > 0
    assert said == {"main": nicer, "pool": nicer, "sender": [0], "zeromq": [0]}


def test_who_waits_for_a_request_looks_for_a_while_and_then_sleeps():
    waiting = queue.Queue()
    waiting.put("left from before")
    waiting.__class__ = core_threads._Watched
    assert waiting.get() == "left from before"

    def computed_until(after: float) -> float:
        sender = threading.Timer(after, waiting.put, ["request"])
        sender.start()
        before = time.thread_time()
        assert waiting.get() == "request"
        sender.join()
        return time.thread_time() - before

    looked = computed_until(core_threads._Watched.LOOKING_SECONDS / 2)
    rested = computed_until(core_threads._Watched.LOOKING_SECONDS * 4)
    assert looked > 0.01
    assert rested < core_threads._Watched.LOOKING_SECONDS + 0.1
    for arguments in ({"block": False}, {"timeout": 0.01}):
        before = time.monotonic()
        with pytest.raises(queue.Empty):
            waiting.get(**arguments)
        assert time.monotonic() - before < core_threads._Watched.LOOKING_SECONDS


@pytest.mark.asyncio(loop_scope="session")
async def test_an_idle_core_looks_for_requests_for_a_while_and_computes_at_a_lower_priority(
    template, made_model
):
    template.import_model(made_model.path)
    args = {"max-model-len": 64, "enforce-eager": True, "kv-cache-memory-bytes": 64 << 20}
    process = template.fork(options.command_line(args, model=made_model.path, name="m"))
    await process.wait_serving()
    (core,) = process.core_pids
    usual = os.getpriority(os.PRIO_PROCESS, process.pid)
    assert os.getpriority(os.PRIO_PROCESS, core) == min(19, usual + core_threads.NICER)

    engine = VllmEngine.on(process.socket, process.dead, model="m", version="")
    request = GenerateRequest("r", "the sea", Parameters(max_tokens=4, temperature=0.0))
    assert [chunk async for chunk in engine.generate(request)]
    looked = _share_running(core, core_threads._Watched.LOOKING_SECONDS * 0.8)
    time.sleep(core_threads._Watched.LOOKING_SECONDS)
    rested = _share_running(core, 0.5)
    await engine.close()
    await process.stop()
    if processors.available() >= 2:
        assert looked > 0.5
    else:
        assert looked < 0.2
    assert rested < 0.2


def _share_running(pid: int, seconds: float) -> float:
    """How often the main thread of a process wants a processor, whether it has one or not (proc_pid_stat(5))."""
    states = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        states.append(Path(f"/proc/{pid}/task/{pid}/stat").read_text().rpartition(")")[2].split()[0])
        time.sleep(0.005)
    return states.count("R") / len(states)


@pytest.mark.parametrize(("granted", "looks"), [(0.5, False), (1.9, False), (2.0, True)])
def test_a_core_looks_for_requests_only_with_two_processors(monkeypatch, granted, looks):
    called = []
    for name in ("hand_over_outputs", "give_way", "keep_looking"):
        monkeypatch.setattr(core_threads, name, lambda name=name: called.append(name))
    monkeypatch.setattr(processors, "available", lambda: granted)
    core_threads.prepare()
    assert ("keep_looking" in called) == looks


@pytest.mark.parametrize(("granted", "threads"), [(0.5, "1"), (1.9, "1"), (2.0, "1"), (3.5, "2")])
def test_openmp_has_a_thread_for_each_processor_but_one(monkeypatch, granted, threads):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(processes, "is_cpu_build", lambda: True)
    monkeypatch.setattr(processors, "available", lambda: granted)
    assert processes._cpu_environment()["OMP_NUM_THREADS"] == threads
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert processes._cpu_environment()["OMP_NUM_THREADS"] == "7"
