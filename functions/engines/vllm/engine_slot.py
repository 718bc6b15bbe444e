"""The place for one engine on a replica's device: loads an engine, puts it to sleep, wakes and unloads it.

Its caller, the warmth controller, makes one call at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import aiohttp

from functions.engine import EngineError
from functions.engines.vllm.client import VllmEngine
from functions.engines.vllm.device_lock import DeviceLock
from functions.engines.vllm.engine_process import EngineProcess
from functions.engines.vllm.launcher import Launcher
from functions.replica import ReplicaTracker
from functions.stage import StartError
from functions.timing import Phase

_EXIT_SECONDS = 10.0
"""How long a killed engine may take to be gone."""


class EngineSlot:
    """At most one engine.

    Args:
        launcher: starts engines.
        device: lock of a device that the replica shares; None for a device of its own.
        sleep_level: vLLM's sleep level: 1 keeps the weights in host memory, 2 drops them.
    """

    def __init__(self, launcher: Launcher, device: DeviceLock | None, sleep_level: int) -> None:
        self._launcher = launcher
        self._device = device
        self._sleep_level = sleep_level
        self.engine: VllmEngine | None = None
        """The engine once it has answered."""
        self.process: EngineProcess | None = None
        """Its process, from the order to fork it on."""
        self.on_death: Callable[[EngineProcess], None] = lambda _: None
        """Called when an engine that has answered cannot answer any more, whatever the reason."""

    @property
    def may_wait_for_device(self) -> bool:
        """Whether a load that is under way has not ordered its engine yet."""
        return self._device is not None and self.process is None

    @property
    def others_wait_for_device(self) -> bool:
        """Whether another replica waits for the device."""
        return self._device is not None and self._device.others_waiting()

    async def load(self, replica: ReplicaTracker, *, sleep_mode: bool) -> VllmEngine:
        """Take the device, fork an engine and wait until it answers.

        Args:
            replica: where the phases are recorded.
            sleep_mode: start the engine with vLLM's sleep mode.

        Raises:
            StartError: it did not come up.
        """
        await self._acquire_device(replica)
        try:
            await self._launcher.ensure_template(replica)
            process = self.process = self._launcher.fork(sleep_mode=sleep_mode)
            engine = await self._launcher.connect(replica, process)
        except StartError:
            await self.unload()
            self.release_device()
            raise
        process.dead.add_done_callback(lambda _: self.on_death(process))
        self.engine = engine
        return engine

    async def sleep(self) -> None:
        """Free the device's memory. CUDA only.

        Raises:
            EngineError: it did not.
        """
        if self.engine is not None:
            await self.engine.sleep(self._sleep_level)

    async def wake(self, replica: ReplicaTracker) -> VllmEngine:
        """Take the device and undo `sleep`; load another engine if this one has died.

        Raises:
            StartError: it does not answer.
        """
        if self.engine is None or self.engine.dead.done():
            return await self.load(replica, sleep_mode=True)
        await self._acquire_device(replica)
        try:
            with replica.measure(Phase.WEIGHTS):
                await self.engine.wake(self._sleep_level)
            with replica.measure(Phase.WARMUP):
                await self.engine.warm_up()
        except (EngineError, aiohttp.ClientError) as error:
            raise StartError(f"the engine does not wake: {error}") from None
        return self.engine

    async def unload(self, *, graceful: bool = False) -> VllmEngine | None:
        """End the engine's processes.

        Args:
            graceful: let worker processes free their shared memory.

        Returns:
            The engine, to be closed: requests in flight fail by their broken connections, and closing waits
            for them.
        """
        engine, self.engine = self.engine, None
        process, self.process = self.process, None
        if process is not None:
            if graceful and self._launcher.has_worker_processes:
                await process.stop()
            else:
                process.kill()
                await asyncio.wait({process.gone}, timeout=_EXIT_SECONDS)
        return engine

    def release_device(self) -> None:
        """Let other replicas have the device."""
        if self._device is not None:
            self._device.release()

    async def _acquire_device(self, replica: ReplicaTracker) -> None:
        if self._device is not None:
            with replica.measure(Phase.DEVICE):
                await self._device.acquire()
