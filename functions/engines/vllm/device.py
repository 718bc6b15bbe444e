"""Turns on a device that several replicas of one host share, in the order in which they asked.

A queue lock made of files (after Craig, Landin and Hagersten, 1993): who comes draws the next ticket and
holds an advisory lock on its file; the lowest ticket whose file is locked has the device. The kernel drops
the lock of a process that dies, so nobody waits for the dead, and no process has to be there to keep order.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from pathlib import Path

POLL_SECONDS = 0.05


class DeviceTurn:
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
        """This replica has the device, or waits for it."""
        return self._descriptor is not None

    async def acquire(self) -> None:
        """Wait for the device. Cancelling the wait leaves the queue. Holding it already is fine.

        Raises:
            OSError: the folder cannot be used.
        """
        if self._descriptor is None:
            self._draw()
        try:
            while self._ahead():  # noqa: ASYNC110 - other processes cannot set an event of this one
                await asyncio.sleep(POLL_SECONDS)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Leave the device, or the queue. May be called twice."""
        if self._descriptor is None or self._ticket is None:
            return
        with contextlib.suppress(FileNotFoundError):
            self._path(self._ticket).unlink()
        os.close(self._descriptor)
        self._descriptor = self._ticket = None

    def others_waiting(self) -> bool:
        """Whether somebody queues behind this replica."""
        return self._ticket is not None and any(
            number > self._ticket and self._is_held(number) for number in self._tickets()
        )

    def _draw(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o777)
        gate = os.open(self._directory / "gate", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            # Held for microseconds: numbers must be unique, and a ticket must be locked before others see it.
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
        """Whether the ticket's owner lives; a dead one's ticket is thrown away."""
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
