"""How many threads read at a time: few at first, twice as many for as long as that can help."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

from weights import processors

RAMP_SECONDS = 0.05
"""Time between two decisions."""
BUSY_SHARE = 0.5
"""Share of the granted processors that this process demands above which more threads would not help."""


class WorkerRamp:
    """Starts worker threads.

    A distant store needs dozens of connections to fill the network. For a near one, more than a few threads
    only compete with the consumer for the processors.
    """

    def __init__(
        self,
        work: Callable[[], None],
        *,
        first: int,
        limit: int,
        stop: threading.Event,
        held_back: Callable[[], bool],
        failed: Callable[[BaseException], None],
    ) -> None:
        """Start the first workers and go on in the background.

        Args:
            work: what a worker runs.
            first: how many workers to begin with.
            limit: of workers.
            stop: starts no more when set.
            held_back: whether work waits for the consumer, so that more workers would not help.
            failed: called with the error if not even one worker can be started.
        """
        self._work = work
        self._first = first
        self._limit = limit
        self._stop = stop
        self._held_back = held_back
        self._failed = failed
        self._workers: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._run, name="weights-ramp", daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait until all workers have ended; `stop` must be set."""
        self._thread.join()
        for worker in self._workers:
            worker.join()

    def _run(self) -> None:
        granted = processors.available()
        while not self._stop.is_set():
            if not self._start(min(self._limit - len(self._workers), len(self._workers) or self._first)):
                return
            if len(self._workers) >= self._limit:
                return
            began, demanded = time.monotonic(), _processor_seconds_demanded()
            if self._stop.wait(RAMP_SECONDS):
                return
            while self._held_back() or (
                _processor_seconds_demanded() - demanded > BUSY_SHARE * granted * (time.monotonic() - began)
            ):
                began, demanded = time.monotonic(), _processor_seconds_demanded()
                if self._stop.wait(RAMP_SECONDS):
                    return

    def _start(self, count: int) -> bool:
        for _ in range(count):
            name = f"weights-reader-{len(self._workers)}"
            worker = threading.Thread(target=self._work, name=name, daemon=True)
            try:
                worker.start()
            except RuntimeError as error:  # the system allows no more threads: fewer will do
                if not self._workers:
                    self._failed(error)
                return False
            self._workers.append(worker)
        return True


def _processor_seconds_demanded() -> float:
    """Processor time that the threads of this process used or waited for, in seconds.

    Waiting counts: more threads do not help on a machine that other processes keep busy.
    """
    total = 0
    try:
        for task in Path("/proc/self/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
                used, waited, _ = (task / "schedstat").read_text().split()
                total += int(used) + int(waited)
    except (OSError, ValueError):
        return time.process_time()
    return total / 1e9
