"""A lock on a device that several replicas of one host share, granted in the order of the requests.

A queue lock made of files (after Craig, Landin and Hagersten, 1993). A replica takes the next ticket number
and holds an advisory lock on the ticket's file; the lowest ticket whose file is locked has the device. The
kernel releases the locks of a process that dies, so a dead process blocks no one, and no coordinator is
needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from pathlib import Path

POLL_SECONDS = 0.05


class DeviceLock:
    """One replica's place in the queue for one device.

    Args:
        directory: the queue's folder, the same for all replicas that share the device.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._descriptor: int | None = None
        self._ticket: int | None = None

    @property
    def held(self) -> bool:
        """Whether this replica has the device or waits for it."""
        return self._descriptor is not None

    async def acquire(self) -> None:
        """Wait for the device; no effect if it is held already. Cancelling the wait leaves the queue.

        Raises:
            OSError: the folder cannot be used.
        """
        if self._descriptor is None:
            self._take_ticket()
        try:
            while self._ahead():  # noqa: ASYNC110 - other processes cannot set an event here
                await asyncio.sleep(POLL_SECONDS)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Release the device, or leave the queue. May be called twice."""
        if self._descriptor is None or self._ticket is None:
            return
        with contextlib.suppress(FileNotFoundError):
            self._path(self._ticket).unlink()
        os.close(self._descriptor)
        self._descriptor = self._ticket = None

    def others_waiting(self) -> bool:
        """Whether another replica queues behind this one."""
        return self._ticket is not None and any(
            number > self._ticket and self._is_held(number) for number in self._tickets()
        )

    def _take_ticket(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o777)
        gate = os.open(self._directory / "gate", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            # Held for microseconds: numbers are unique, and a ticket is locked before others see it.
            fcntl.flock(gate, fcntl.LOCK_EX)
            self._ticket = 1 + max(self._tickets(), default=0)
            self._descriptor = os.open(self._path(self._ticket), os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        finally:
            os.close(gate)

    def _ahead(self) -> bool:
        assert self._ticket is not None
        return any(number < self._ticket and self._is_held(number) for number in self._tickets())

    def _is_held(self, number: int) -> bool:
        """Whether the ticket's owner is alive; removes the ticket of a dead one."""
        try:
            descriptor = os.open(self._path(number), os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            with contextlib.suppress(FileNotFoundError):
                self._path(number).unlink()
            return False
        finally:
            os.close(descriptor)

    def _tickets(self) -> list[int]:
        return sorted(
            int(name.removesuffix(".ticket"))
            for name in os.listdir(self._directory)  # noqa: PTH208 - names only, several times per second
            if name.endswith(".ticket")
        )

    def _path(self, number: int) -> Path:
        return self._directory / f"{number:012d}.ticket"
