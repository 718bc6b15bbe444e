"""AWS on this machine: moto's server in a process of its own, with S3 for the demo and queues of SQS."""

import asyncio
import importlib.util
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

# Ends with its parent also when that is killed (prctl(2), PR_SET_PDEATHSIG).
_MOTO = (
    "import ctypes, signal; ctypes.CDLL(None).prctl(1, signal.SIGTERM); from moto.server import main; main()"
)


class AwsServerError(RuntimeError):
    """The server is not installed, or does not start; the text says what to do."""


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def check_installed(what: str) -> None:
    """Raises AwsServerError: moto is not installed; `what` it would be."""
    if importlib.util.find_spec("moto") is None:
        raise AwsServerError(f"{what} is moto's server: pip install 'pilotlight[demo]'")


@asynccontextmanager
async def serving(log: Path, what: str) -> AsyncIterator[str]:
    """Run the server for as long as the context lasts; gives its URL. What it holds is in memory.

    Args:
        log: file for what it writes.
        what: it is used as, for messages.

    Raises:
        AwsServerError: moto is not installed, or does not come up.
    """
    check_installed(what)
    port = free_port()
    with log.open("wb") as out:
        # A session of its own: Ctrl-C reaches this process alone, which then ends things in order.
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _MOTO, "-H", "127.0.0.1", "-p", str(port),
            stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip
    try:
        await _until_open(process, port, what, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 5)
            except TimeoutError:
                process.kill()
                await process.wait()


async def _until_open(
    process: asyncio.subprocess.Process, port: int, what: str, log: Path, timeout_s: float = 60
) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            if process.returncode is not None or loop.time() > deadline:
                raise AwsServerError(f"{what} did not start; see {log}") from None
            await asyncio.sleep(0.1)
        else:
            writer.close()
            return
