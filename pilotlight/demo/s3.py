"""An S3 endpoint on this machine for the demo: moto's server in a process of its own."""

import asyncio
import importlib.util
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import boto3

from pilotlight.stack import StackError

# Ends with the demo also when that is killed (prctl(2), PR_SET_PDEATHSIG).
_MOTO = (
    "import ctypes, signal; ctypes.CDLL(None).prctl(1, signal.SIGTERM); from moto.server import main; main()"
)


@dataclass(frozen=True)
class S3Endpoint:
    """A running endpoint and the environment that reaches it through the usual AWS chain."""

    url: str
    env: Mapping[str, str]


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def check_installed() -> None:
    """Raises StackError: moto is not installed."""
    if importlib.util.find_spec("moto") is None:
        raise StackError("the demo's S3 endpoint is moto's server: pip install 'pilotlight[demo]'")


@asynccontextmanager
async def serving(log: Path) -> AsyncIterator[S3Endpoint]:
    """Run the endpoint for as long as the context lasts.

    Raises:
        StackError: moto is not installed, or does not come up.
    """
    check_installed()
    port = free_port()
    with log.open("wb") as out:
        # A session of its own: Ctrl-C reaches the demo alone, which then ends things in order.
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _MOTO, "-H", "127.0.0.1", "-p", str(port),
            stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip
    try:
        await _until_open(process, port, log)
        url = f"http://127.0.0.1:{port}"
        yield S3Endpoint(
            url,
            {
                "AWS_ENDPOINT_URL": url,
                "AWS_ACCESS_KEY_ID": "demo",
                "AWS_SECRET_ACCESS_KEY": "demo",
                "AWS_REGION": "us-east-1",
                "AWS_DEFAULT_REGION": "us-east-1",
            },
        )
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 5)
            except TimeoutError:
                process.kill()
                await process.wait()


async def _until_open(
    process: asyncio.subprocess.Process, port: int, log: Path, timeout_s: float = 60
) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            if process.returncode is not None or loop.time() > deadline:
                raise StackError(f"the S3 endpoint did not start; see {log}") from None
            await asyncio.sleep(0.1)
        else:
            writer.close()
            return


def upload(
    endpoint: S3Endpoint, folder: Path, bucket: str, prefix: str, on_file: Callable[[str], None]
) -> int:
    """Put every file of `folder` into the bucket, which is made; the bytes written."""
    s3 = boto3.client(
        "s3",
        endpoint_url=endpoint.url,
        region_name=endpoint.env["AWS_REGION"],
        aws_access_key_id=endpoint.env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=endpoint.env["AWS_SECRET_ACCESS_KEY"],
    )
    s3.create_bucket(Bucket=bucket)
    total = 0
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        key = f"{prefix}/{path.relative_to(folder).as_posix()}"
        on_file(path.name)
        s3.upload_file(str(path), bucket, key)
        total += path.stat().st_size
    return total
