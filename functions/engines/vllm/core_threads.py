"""An engine core that runs the model in its own process, as on CPUs: how its threads share the processors.

vLLM's own server has a worker process for that. Within one process a thread that computes, one that receives
requests and one that sends tokens want the same interpreter and the same processors; what is here changes
`EngineCoreProc` of vLLM for the processes forked from the one that calls. When a release of vLLM changes what
this takes for granted, `tests/functions/test_core_threads.py` fails.
"""

# ruff: noqa: PLC0415 - nothing of vLLM may be imported before it is wanted

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from pathlib import Path
from typing import Any

from weights import processors


def prepare() -> None:
    """Change what is to be changed; for the engine's server, before it makes its core."""
    hand_over_outputs()
    give_way()
    if processors.available() >= 2:
        keep_looking()


class _HandedOver(queue.Queue[Any]):
    """A queue of which `put_nowait` returns when the item has been taken, or after a moment."""

    PATIENCE_SECONDS = 0.005
    """What a thread waits for the interpreter lock before it asks for it (`sys.getswitchinterval`)."""

    def put_nowait(self, item: Any) -> None:
        """Put, and let the thread that waits for it have the interpreter."""
        with self.not_full:
            self._put(item)
            self.unfinished_tasks += 1
            self.not_empty.notify()
            self.not_full.wait_for(lambda: not self._qsize(), self.PATIENCE_SECONDS)


def hand_over_outputs() -> None:
    """Let an engine core that runs the model itself deliver each step's tokens before it takes the next.

    A thread of the core sends them. A worker in the same interpreter gives the lock away for a moment at
    every torch operation and has it back before the thread has woken, and a wait that is woken never asks for
    the lock (CPython's `take_gil`): tokens left a step late. For processes forked from the one that calls.
    """
    from vllm.v1.engine.core import EngineCoreProc

    send = EngineCoreProc.process_output_sockets

    def process_output_sockets(core: Any, *args: Any) -> None:
        # Of the object that is there: what somebody has put already stays in it.
        core.output_queue.__class__ = _HandedOver
        send(core, *args)

    EngineCoreProc.process_output_sockets = process_output_sockets


NICER = 5
"""By how much computing threads are nicer: a third of the weight of others (`sched_prio_to_weight`)."""


def give_way() -> None:
    """Let an engine core that runs the model itself leave the processor to those who wait for it.

    A thread that computes without a rest keeps its processor until the kernel's clock ticks, every 4 ms at
    250 Hz, when one that carries a request or a token wakes up there. A lower priority (nice(2)) lets that
    one go first; what the others leave is the computation's as before. For processes forked from the caller.
    """
    from vllm.v1.engine.core import EngineCoreProc

    run = EngineCoreProc.run_busy_loop

    def run_busy_loop(core: Any) -> None:
        lower_computing_threads()
        run(core)

    EngineCoreProc.run_busy_loop = run_busy_loop


def lower_computing_threads() -> None:
    """Make this process's threads that compute nicer: the main one and the pool that it has or will have.

    Those of Python and of ZeroMQ carry requests and tokens and stay as they are: without a privilege nobody
    gets a priority back. Linux only, where each thread has its own.
    """
    carrying = {one.native_id for one in threading.enumerate() if one is not threading.main_thread()}
    tasks = Path("/proc/self/task")
    for task in tasks.iterdir() if tasks.is_dir() else ():
        thread = int(task.name)
        with contextlib.suppress(OSError):  # it has ended
            if thread not in carrying and not (task / "comm").read_text().startswith("ZMQ"):
                nice = os.getpriority(os.PRIO_PROCESS, thread)
                os.setpriority(os.PRIO_PROCESS, thread, min(19, nice + NICER))


class _Watched(queue.Queue[Any]):
    """A queue of which `get` looks for an item for a while before it sleeps."""

    LOOKING_SECONDS = 0.25
    """Of one processor, after the last request at most."""

    def get(self, block: bool = True, timeout: float | None = None) -> Any:  # noqa: FBT001, FBT002 - as it was
        """Take an item; until one is there the processor is anybody's who wants it (sched_yield(2))."""
        if block and timeout is None:
            until = time.monotonic() + self.LOOKING_SECONDS
            while not self._qsize() and time.monotonic() < until:
                os.sched_yield()  # without the interpreter lock, for Python's threads
        return super().get(block, timeout)


def keep_looking() -> None:
    """Let an engine core that runs the model itself look for requests for a while before it sleeps.

    So does vLLM's worker in a process of its own, for a second (`SpinCondition`). The processor that computes
    is busy between two requests as well, then: the kernel leaves the other threads on the others, and none of
    them waits behind a step when a token comes. Of use only where there is more than one processor. For
    processes forked from the caller.
    """
    from vllm.v1.engine.core import EngineCoreProc

    run = EngineCoreProc.run_busy_loop

    def run_busy_loop(core: Any) -> None:
        core.input_queue.__class__ = _Watched
        run(core)

    EngineCoreProc.run_busy_loop = run_busy_loop
