"""The template process as it is written to disk and as it continues after it was restored.

    python -m functions.engines.vllm.template --park FOLDER --model FOLDER

It imports, writes `parked.json` and waits for an order on its standard input, a pipe: in this state it is
written. It has no other open file and no variable of its environment that may be a secret. A restored process
finds its order in the pipe: the environment of its replica and the socket that the replica listens on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import multiprocessing
import os
import random
import re
import socket
import ssl
import sys
import tempfile
from pathlib import Path
from typing import Any

from functions.engines.vllm.snapshots.identity import file_versions

PARKED_FILE = "parked.json"
_STANDARD_STREAMS = 3
_SEED_BYTES = 64


@dataclasses.dataclass(frozen=True)
class Order:
    """What a restored process is told. One line of JSON on its standard input."""

    socket: str
    """Path of the `SOCK_SEQPACKET` socket on which its replica listens."""
    directory: str
    """Working directory."""
    environment: dict[str, str]

    def encode(self) -> bytes:
        """The line."""
        return json.dumps(dataclasses.asdict(self)).encode() + b"\n"


def run_in_background(*, background: bool) -> None:
    """Whether all threads of this process run only where nothing else wants to (sched(7), SCHED_IDLE)."""
    policy = os.SCHED_IDLE if background else os.SCHED_OTHER
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            os.sched_setscheduler(int(thread.name), policy, os.sched_param(0))


def park(folder: Path) -> socket.socket:
    """Wait to be written, restored and told what to do.

    Args:
        folder: where `parked.json` is written: the files on which this process depends.

    Returns:
        The channel to the replica. The process ends if there is no order.
    """
    run_in_background(background=False)
    record = {"files": file_versions(_files_in_use())}
    scratch = folder / f".{PARKED_FILE}"
    scratch.write_text(json.dumps(record), encoding="utf-8")
    sys.stdout.flush()
    sys.stderr.flush()
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    os.closerange(_STANDARD_STREAMS, os.sysconf("SC_OPEN_MAX"))
    scratch.rename(folder / PARKED_FILE)
    line = bytearray()
    while not line.endswith(b"\n"):
        received = os.read(0, 1 << 16)
        if not received:
            os._exit(0)
        line += received
    return _continue(Order(**json.loads(line)))


def _continue(order: Order) -> socket.socket:
    """Become the process of one replica: renew all that must differ between replicas."""
    os.environ.clear()
    os.environ.update(order.environment)
    tempfile.tempdir = None
    with contextlib.suppress(OSError):
        os.chdir(order.directory)
    renew_randomness()
    control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    control.connect(order.socket)
    _, streams, _, _ = socket.recv_fds(control, 1, 2)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in zip((nothing, *streams), range(_STANDARD_STREAMS), strict=True):
        os.dup2(source, target)
        os.close(source)
    return control


def renew_randomness() -> None:
    """Give every generator of random numbers in this process a state of its own."""
    random.seed()
    ssl.RAND_add(os.urandom(_SEED_BYTES), _SEED_BYTES)
    multiprocessing.current_process().authkey = os.urandom(32)
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        torch.random.default_generator.seed()


def _files_in_use() -> set[str]:
    """Every file that is mapped, and the source of every module."""
    maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    mapped = set(re.findall(r" (/\S.*)$", maps, re.MULTILINE))
    modules = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    return mapped | {path for path in modules if isinstance(path, str) and path.startswith("/")}
