"""Metrics of GPUs, with a library in NVML's place: the functions of nvidia-ml-py that are used, and their errors.

There is no GPU where the tests run. That nvidia-ml-py has these functions is tested; what a device says is not.
"""

# ruff: noqa: N802, ARG002 - the names and parameters are NVML's
import inspect
import threading
from types import SimpleNamespace

import pynvml
import pytest
from prometheus_client.parser import text_string_to_metric_families

from functions.gpu_devices import held_devices
from functions.gpu_metrics import GpuMetrics
from tests.functions.servers import stage_process, wait_ready

GIB = 2**30


class FakeNvml:
    """Devices by UUID; each value is what NVML returns, in its units, or None: not supported."""

    NVMLError = pynvml.NVMLError

    def __init__(self, devices: dict[str, dict]) -> None:
        self.devices = devices
        self.works = True
        self.open = 0

    def nvmlInit(self) -> None:
        if not self.works:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.devices)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        if index >= len(self.devices):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return list(self.devices)[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        return uuid

    def nvmlDeviceGetUUID(self, handle: str) -> str:
        return handle

    def nvmlDeviceGetName(self, handle: str) -> str:
        return "NVIDIA L4"

    def nvmlDeviceGetUtilizationRates(self, handle: str):
        return SimpleNamespace(gpu=self._value(handle, "gpu"), memory=0)

    def nvmlDeviceGetMemoryInfo(self, handle: str):
        return SimpleNamespace(used=self._value(handle, "used"), total=24 * GIB)

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        return self._value(handle, "milliwatts")

    def _value(self, handle: str, name: str):
        if (found := self.devices[handle].get(name)) is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return found


DEVICES = {
    "GPU-a": {"gpu": 0, "used": 2 * GIB, "milliwatts": 31_250},
    "GPU-b": {"gpu": 87, "used": 20 * GIB, "milliwatts": 70_000},
    "MIG-c": {"used": GIB},
}


async def series(nvml, devices) -> dict[tuple[str, str], float]:
    source = GpuMetrics(stage="generate-a", kind="generate", devices=devices, load=lambda: nvml)
    page = (await source()).decode()
    return {
        (sample.name.removeprefix("pilotlight_gpu_"), sample.labels["gpu"]): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


async def test_the_devices_that_are_held_are_read_in_base_units():
    nvml = FakeNvml(DEVICES)
    assert await series(nvml, ("1",)) == {
        ("utilization_ratio", "GPU-b"): 0.87,
        ("memory_used_bytes", "GPU-b"): 20 * GIB,
        ("memory_total_bytes", "GPU-b"): 24 * GIB,
        ("power_watts", "GPU-b"): 70.0,
    }
    assert {gpu for _, gpu in await series(nvml, None)} == set(DEVICES)
    assert nvml.open == 0


async def test_what_is_not_supported_is_absent_and_an_idle_gpu_is_0():
    found = await series(FakeNvml(DEVICES), ("GPU-a", "MIG-c"))
    assert found["utilization_ratio", "GPU-a"] == 0
    assert {name for name, gpu in found if gpu == "MIG-c"} == {"memory_used_bytes", "memory_total_bytes"}


async def test_without_device_driver_or_package_there_is_no_series():
    nvml = FakeNvml(DEVICES)
    assert await series(nvml, ()) == {}
    assert await series(nvml, ("7",)) == {}
    nvml.works = False
    assert await series(nvml, None) == {}

    def missing():
        raise ImportError

    assert await GpuMetrics(stage="s", kind="k", devices=None, load=missing)() == b""


async def test_a_driver_that_hangs_holds_no_scrape_up(monkeypatch):
    monkeypatch.setattr("functions.gpu_metrics.READ_S", 0.05)
    answer, calls = threading.Event(), []

    def slow():
        calls.append(1)
        answer.wait(30)
        return FakeNvml(DEVICES)

    source = GpuMetrics(stage="s", kind="k", devices=None, load=slow)
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await source()
    assert len(calls) == 1, "one thread waits, not one for each scrape"
    answer.set()
    monkeypatch.setattr("functions.gpu_metrics.READ_S", 30)
    assert b"GPU-a" in await source()


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, ()),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),
        ({"CUDA_VISIBLE_DEVICES": "0,2"}, ("0", "2")),
        ({"CUDA_VISIBLE_DEVICES": ""}, ()),
        ({"CUDA_VISIBLE_DEVICES": "-1", "NVIDIA_VISIBLE_DEVICES": "all"}, ()),
        ({"NVIDIA_VISIBLE_DEVICES": "GPU-a"}, ("GPU-a",)),
        ({"NVIDIA_VISIBLE_DEVICES": "void", "KUBERNETES_SERVICE_HOST": "10.0.0.1"}, ()),
        ({"NVIDIA_VISIBLE_DEVICES": "all"}, None),
    ],
)
def test_which_devices_a_process_holds(environ, expected):
    assert held_devices(environ) == expected


def test_nvidia_ml_py_has_what_the_fake_library_has():
    for name, function in inspect.getmembers(FakeNvml, inspect.isfunction):
        if name.startswith("nvml"):
            theirs = inspect.signature(getattr(pynvml, name)).parameters
            ours = list(inspect.signature(function).parameters)[1:]
            assert len(ours) <= len(theirs), name
            assert all(one.default is not one.empty for one in list(theirs.values())[len(ours) :]), name


async def test_a_stage_on_a_machine_without_a_gpu_has_no_such_series(tmp_path):
    import aiohttp

    with stage_process("postprocess", tmp_path, NVIDIA_VISIBLE_DEVICES="all") as stage:
        async with aiohttp.ClientSession() as http:
            await wait_ready(http, stage.url)
            async with http.get(f"{stage.url}/metrics") as response:
                page = await response.text()
    assert "pilotlight_queue_depth" in page
    assert "pilotlight_gpu" not in page
