"""The wakers of the durable runs on this machine: one for each SQLite file in the platform's state folder."""

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from functions.auth import stage_token
from knative.client.cluster import Cluster
from knative.client.errors import ClusterError
from knative.client.resources import SECRET, SERVICE
from knative.labels import AGENT_LABEL
from pilotlight.compile_access import stage_token_secret

if TYPE_CHECKING:
    from functions.orchestration.runs.database import Database
    from functions.orchestration.runs.waker import Waker

RUNS_FOLDER = "runs"
"""In the state folder: `NAMESPACE/SERVICE.sqlite`."""
_LOOK_S = 2.0


@asynccontextmanager
async def waking(state_dir: Path, cluster: Cluster, gateway: str) -> AsyncIterator[None]:
    """Wake durable runs for as long as the context lasts; nothing is imported before there are any."""
    task = asyncio.create_task(_follow(state_dir / RUNS_FOLDER, cluster, gateway), name="wakers of runs")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _follow(folder: Path, cluster: Cluster, gateway: str) -> None:
    known: dict[Path, asyncio.Task[None]] = {}
    try:
        while True:
            for path in await asyncio.to_thread(lambda: sorted(folder.glob("*/*.sqlite"))):
                if path not in known:
                    known[path] = asyncio.create_task(_wake(path, cluster, gateway))
            await asyncio.sleep(_LOOK_S)
    finally:
        for task in known.values():
            task.cancel()
        await asyncio.gather(*known.values(), return_exceptions=True)


async def _wake(path: Path, cluster: Cluster, gateway: str) -> None:
    """Wake the runs of one Service, for ever."""
    service, namespace = path.stem, path.parent.name
    headers = {"Host": f"{service}.{namespace}.svc.cluster.local"}

    async def keep_token() -> None:
        while True:
            with contextlib.suppress(ClusterError):  # without it the stage says what is missing
                headers.update(await _token(cluster, service, namespace))
            await asyncio.sleep(30.0)

    waker, runs = await asyncio.to_thread(_opened, path, gateway, headers)
    keeping = asyncio.create_task(keep_token())
    try:
        await waker.run()
    finally:
        keeping.cancel()
        await runs.close()


def _opened(path: Path, gateway: str, headers: Mapping[str, str]) -> "tuple[Waker, Database]":
    from functions.orchestration.runs.database import Database  # noqa: PLC0415 - a third of a second
    from functions.orchestration.runs.store import RunStore  # noqa: PLC0415
    from functions.orchestration.runs.waker import Waker  # noqa: PLC0415

    runs = Database(f"sqlite:///{path}", pool=1)
    return Waker(RunStore(runs), gateway, lambda: headers), runs


async def _token(cluster: Cluster, service: str, namespace: str) -> Mapping[str, str]:
    """What shows a stage that one of its agent's own processes asks; nothing where it wants no such thing."""
    found = await cluster.get(SERVICE, service, namespace)
    agent = found["spec"]["template"]["metadata"]["labels"].get(AGENT_LABEL, "")
    secret = await cluster.get(SECRET, stage_token_secret(agent), namespace)
    token = base64.b64decode((secret.get("data") or {}).get(stage_token.CURRENT, "")).decode().strip()
    return {stage_token.HEADER: token} if token else {}
