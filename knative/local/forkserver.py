"""`python -m knative.local.forkserver MODULE...`: imports modules once, and forks replicas from then on.

Its standard input is a socket to the platform. When all is imported, it writes READY. For each message, which
carries a socket and the replica's output, it forks and answers with the process id. The forked process is a
child of the platform, not of this one (CLONE_PARENT), so the platform waits for it as for any other, and this
process may die without a replica noticing. What a replica runs, and its environment, it reads itself from its
socket: this process, whose memory later replicas inherit, never sees it.
"""

import ctypes
import gc
import importlib
import json
import os
import platform
import runpy
import signal
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

READY = b"ready\n"
_CLONE_NUMBERS = {"x86_64": 56, "aarch64": 220}
"""The system call `clone`, by machine."""
_CLONE_PARENT, _CLONE_CHILD_SETTID, _CLONE_CHILD_CLEARTID = 0x8000, 0x01000000, 0x00200000
_CLONE_NEWNS = 0x20000
_PR_SET_PDEATHSIG, _PR_GET_TID_ADDRESS = 1, 40
_PR_SET_MM, _PR_SET_MM_MAP = 35, 14
_MAP_FIELDS = (26, 27, 45, 46, 47, None, 28, 48, 49, 50, 51)
"""The addresses of `struct prctl_mm_map` by their number in `/proc/self/stat` (proc_pid_stat(5)): code, data,
heap, its end (which is not there), stack, command line, environment."""
_START_FAILED = 128
"""Exit code of a replica that could not be made, as Kubernetes shows it."""
# The interpreter lock stays held: between `clone` and the interpreter's own care after it nothing may run.
_LIBC = ctypes.PyDLL(None, use_errno=True)


def main() -> dict[str, Any] | None:
    """Serve forks until the platform closes the socket. In a forked process: what it is to run."""
    control = socket.socket(fileno=os.dup(0))
    for module in sys.argv[1:]:
        importlib.import_module(module)
    if len(list(Path("/proc/self/task").iterdir())) != 1 or threading.active_count() != 1:
        raise SystemExit("forkserver: an import has started a thread, which a fork would not have")
    tid_address = _tid_address()
    parent = os.getppid()
    # Collections in a replica would otherwise write to, and so copy, the pages that all share.
    gc.collect()
    gc.freeze()
    control.sendall(READY)
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 2)
        if not message:
            return None
        pid = _clone(tid_address)
        if pid == 0:
            control.close()
            return _become(parent, *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        control.sendall(pid.to_bytes(4, "little"))


def _tid_address() -> int:
    """Where glibc keeps the thread's id, which the kernel must renew in a fork unknown to glibc."""
    address = ctypes.c_void_p()
    if platform.machine() not in _CLONE_NUMBERS or (
        _LIBC.prctl(_PR_GET_TID_ADDRESS, ctypes.byref(address), 0, 0, 0) != 0 or not address.value
    ):
        raise SystemExit("forkserver: not supported by this machine")
    return address.value


def _clone(tid_address: int) -> int:
    """As `os.fork`, with this process's parent as the parent of the new one."""
    flags = _CLONE_PARENT | _CLONE_CHILD_SETTID | _CLONE_CHILD_CLEARTID | signal.SIGCHLD
    tid, none = ctypes.c_void_p(tid_address), ctypes.c_void_p(None)
    ctypes.pythonapi.PyOS_BeforeFork()
    # Machines differ in the order of the last two arguments; one is ignored without CLONE_SETTLS.
    pid = _LIBC.syscall(
        ctypes.c_long(_CLONE_NUMBERS[platform.machine()]), ctypes.c_ulong(flags), none, none, tid, tid
    )
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        return 0
    error = ctypes.get_errno()
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(error, os.strerror(error))
    return int(pid)


def _become(parent: int, channel: int, output: int) -> dict[str, Any]:
    """Give this forked process all that the platform gives to one that is started by `exec`."""
    os.setsid()
    os.dup2(output, 1)
    os.dup2(output, 2)
    with socket.socket(fileno=channel) as received:
        text = b"".join(iter(lambda: received.recv(1 << 16), b""))
    if not text:  # the platform gave up
        os._exit(_START_FAILED)
    try:
        wanted: dict[str, Any] = json.loads(text)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        for folder in wanted["cgroups"]:
            Path(folder, "cgroup.procs").write_text(str(os.getpid()))
        coerced = os.environ.get("LC_CTYPE")  # which Python sets itself in a process without a locale
        os.environ.clear()
        os.environ.update({"LC_CTYPE": coerced} if coerced else {})
        os.environ.update(wanted["env"])
        if wanted["mounts"]:
            _make_mounts(wanted["mounts"])
        _show_command([sys.executable, "-m", wanted["module"], *wanted["arguments"]])
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before that
            os._exit(_START_FAILED)
    except (OSError, ValueError, LookupError) as problem:
        os.write(2, f"cannot start: {problem}\n".encode())
        os._exit(_START_FAILED)
    gc.enable()
    return wanted


def _show_command(command: list[str]) -> None:
    """Have `ps` show the replica's own command, where the one that it inherited is at least as long."""
    # What follows the parenthesis begins with the third field.
    fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    _LIBC.sbrk.restype = ctypes.c_ulong
    addresses = [_LIBC.sbrk(0) if number is None else int(fields[number - 3]) for number in _MAP_FIELDS]
    begin, end = addresses[7:9]
    text = b"".join(os.fsencode(word) + b"\0" for word in command)
    if len(text) > end - begin:
        return
    ctypes.memmove(begin, text.ljust(end - begin, b"\0"), end - begin)
    addresses[8] = begin + len(text)
    # No auxiliary vector, and no other program: unlike a single address this needs no capability.
    layout = struct.pack("=11QQII", *addresses, 0, 0, 0xFFFFFFFF)
    size = ctypes.c_ulong(len(layout))
    _LIBC.prctl(_PR_SET_MM, ctypes.c_ulong(_PR_SET_MM_MAP), layout, size, ctypes.c_ulong(0))


def _make_mounts(command: list[str]) -> None:
    """Have the command make the replica's mounts, in a mount namespace of its own."""
    if _LIBC.unshare(_CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "cannot make a mount namespace")
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603  # the platform's
    if done.returncode:
        raise OSError(f"cannot make the volumes: {done.stderr.strip()}")


if __name__ == "__main__":
    gc.disable()
    _wanted = main()
    if _wanted is not None:
        # As `python -m MODULE` does; what ends it goes through the interpreter's own end.
        sys.argv = [_wanted["module"], *_wanted["arguments"]]
        _wanted = None
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
