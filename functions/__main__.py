"""`python -m functions STAGE`: one replica of one stage.

The port is bound before anything large is imported, so that a platform sees the process within milliseconds;
connections wait in the listen queue until the application answers. No engine is imported in this process.
"""

import argparse
import errno
import importlib
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from functions import termination_message
from functions.settings import (
    KINDS,
    MODULE_KINDS,
    MODULE_REFERENCE,
    FunctionSettings,
    SettingsError,
    read_settings,
)

EXIT_USAGE = 2
"""Exit code for bad arguments or environment, which a restart does not help."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a stage until it is told to stop; the process's exit code.

    0 after a drain; 1 for a port in use or a replica that failed; 2 for bad arguments or environment.
    """
    began = _process_started()
    parser = argparse.ArgumentParser(
        prog="python -m functions",
        description="Run one stage of an agent behind HTTP. FunctionSettings come from the environment.",
        epilog="The variables are listed in docs/functions.md.",
    )
    kinds = (*KINDS, *MODULE_KINDS)
    parser.add_argument("stage", metavar="STAGE", help=f"one of {', '.join(kinds)}")
    parser.add_argument(
        "module", metavar="MODULE:NAME", nargs="?", help=f"for {' and '.join(MODULE_KINDS)}: what to serve"
    )
    given = parser.parse_args(arguments)
    kind, module = given.stage, given.module
    if kind not in kinds:
        return _complain(f"STAGE = {kind!r}, must be one of {', '.join(kinds)}", EXIT_USAGE)
    if (problem := _module_problem(kind, module)) is not None:
        return _complain(problem, EXIT_USAGE)
    try:
        settings = read_settings()
    except SettingsError as error:
        return _complain("; ".join(error.problems), EXIT_USAGE)
    try:
        listening = _listen(settings)
    except OSError as error:
        reason = "is in use" if error.errno == errno.EADDRINUSE else (error.strerror or str(error))
        return _complain(f"PORT = {settings.port}: {settings.host}:{settings.port} {reason}", 1)
    # Until the server has handlers of its own there is nothing to drain, and SIGTERM is not a failure.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with listening:
        return _serve(kind, module, settings, listening, began)


def _module_problem(kind: str, module: str | None) -> str | None:
    """Why a kind and a module do not fit together; None if they do."""
    if kind in MODULE_KINDS:
        if module is None or not MODULE_REFERENCE.fullmatch(module):
            return f"MODULE:NAME = {module!r}, must be such as kb:search for {kind}"
    elif module is not None:
        return f"MODULE:NAME = {module!r}, must be left out for {kind}"
    return None


def _serve(
    kind: str, module: str | None, settings: FunctionSettings, listening: socket.socket, began: float
) -> int:
    from functions import logs  # noqa: PLC0415 - after the port is open, see the module's docstring
    from functions.http.app import create_app  # noqa: PLC0415
    from functions.http.server import serve  # noqa: PLC0415
    from functions.replica import ReplicaTracker  # noqa: PLC0415

    logs.configure(settings)
    try:
        if module is None:
            stage = importlib.import_module(f"functions.stages.{kind}").build(settings)
        else:
            stage = importlib.import_module("functions.sdk.host").build(settings, kind, module)
        app = create_app(stage, settings, replica=ReplicaTracker(process_started=began))
        return serve(app, listening)
    except SettingsError as error:
        return _complain("; ".join(error.problems), EXIT_USAGE)


def _listen(settings: FunctionSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    return socket.create_server((settings.host, settings.port), family=family, backlog=2048)


def _process_started() -> float:
    """Instant at which this process began, in seconds since the epoch; now, where the system does not say."""
    try:
        uptime = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
        # Field 22 of proc_pid_stat(5), counted after the command's closing parenthesis.
        after_command = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        ticks = int(after_command[19])
    except (OSError, ValueError, IndexError):
        return time.time()
    import os  # noqa: PLC0415 - only for the clock's rate, not for the environment

    return time.time() - (uptime - ticks / os.sysconf("SC_CLK_TCK"))


def _complain(message: str, code: int) -> int:
    termination_message.write(message)
    print(f"functions: {message}", file=sys.stderr)  # noqa: T201 - the command's own error line
    return code


if __name__ == "__main__":
    sys.exit(main())
