"""Utilisation, memory and power of the GPUs that a replica holds, read through NVML at each scrape.

Whatever NVML cannot tell is left out, never 0: without a GPU, its driver or nvidia-ml-py there is no series,
and a slice of a GPU (MIG) has memory but neither utilisation nor power.
Functions and units: https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceQueries.html
"""

import asyncio
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, generate_latest

READ_S = 2.0
"""How long a scrape waits for NVML."""
_GAUGES: Mapping[str, str] = {
    "utilization_ratio": "Part of the last sample period in which a kernel ran on the GPU, 0 to 1.",
    "memory_used_bytes": "Memory of the GPU in use, by all processes on it.",
    "memory_total_bytes": "Memory of the GPU.",
    "power_watts": "Power that the GPU draws.",
}


@dataclass(frozen=True, slots=True)
class GpuReading:
    """What NVML says of one device."""

    uuid: str
    model: str
    values: Mapping[str, float]
    """By the names of the gauges; what is not supported is missing."""


def read_gpus(nvml: Any, devices: tuple[str, ...] | None) -> list[GpuReading]:
    """Read these devices; none where NVML does not work. Blocks for milliseconds.

    Args:
        nvml: the module `pynvml`.
        devices: as `functions.gpu_devices.held_devices` says.
    """
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return []
    try:
        handles = _handles(nvml, devices)
        return [reading for handle in handles if (reading := _read(nvml, handle)) is not None]
    except nvml.NVMLError:
        return []
    finally:
        nvml.nvmlShutdown()


class GpuMetrics:
    """A source of `functions.metrics.Metrics.extra`.

    Args:
        stage: the stage's name, a label.
        kind: its kind.
        devices: as `functions.gpu_devices.held_devices` says.
        load: gives the module `pynvml`.
    """

    def __init__(
        self,
        *,
        stage: str,
        kind: str,
        devices: tuple[str, ...] | None,
        load: Callable[[], Any] = lambda: importlib.import_module("pynvml"),
    ) -> None:
        self._labels = (stage, kind)
        self._devices = devices
        self._load = load
        self._reading: asyncio.Task[list[GpuReading]] | None = None

    async def __call__(self) -> bytes:
        """Text in the exposition format.

        Raises:
            TimeoutError: NVML does not answer; it is asked again once it has.
        """
        if self._devices == ():
            return b""
        if self._reading is None:
            self._reading = asyncio.create_task(asyncio.to_thread(self._read))
        try:
            async with asyncio.timeout(READ_S):
                readings = await asyncio.shield(self._reading)
        finally:
            if self._reading.done():
                self._reading = None
        return _page(readings, self._labels) if readings else b""

    def _read(self) -> list[GpuReading]:
        try:
            nvml = self._load()
        except ImportError:
            return []
        return read_gpus(nvml, self._devices)


def _page(readings: list[GpuReading], labels: tuple[str, str]) -> bytes:
    registry = CollectorRegistry()
    names = ("stage", "kind", "gpu", "model")
    for name, text in _GAUGES.items():
        if any(name in reading.values for reading in readings):
            gauge = Gauge(f"pilotlight_gpu_{name}", text, names, registry=registry)
            for reading in readings:
                if name in reading.values:
                    gauge.labels(*labels, reading.uuid, reading.model).set(reading.values[name])
    return generate_latest(registry)


def _handles(nvml: Any, devices: tuple[str, ...] | None) -> list[Any]:
    if devices is None:
        return [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    return [
        nvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdigit() else nvml.nvmlDeviceGetHandleByUUID(name)
        for name in devices
    ]


def _read(nvml: Any, handle: Any) -> GpuReading | None:
    def value(ask: Callable[[Any], Any]) -> Any:
        try:
            return ask(handle)
        except nvml.NVMLError:  # not supported, or the device is lost
            return None

    uuid, model = value(nvml.nvmlDeviceGetUUID), value(nvml.nvmlDeviceGetName)
    if uuid is None:
        return None
    values: dict[str, float] = {}
    if (rates := value(nvml.nvmlDeviceGetUtilizationRates)) is not None:
        values["utilization_ratio"] = rates.gpu / 100
    if (memory := value(nvml.nvmlDeviceGetMemoryInfo)) is not None:
        values |= {"memory_used_bytes": memory.used, "memory_total_bytes": memory.total}
    if (milliwatts := value(nvml.nvmlDeviceGetPowerUsage)) is not None:
        values["power_watts"] = milliwatts / 1000
    return GpuReading(uuid, model or "", values)
