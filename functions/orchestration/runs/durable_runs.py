"""The durable runs of one replica of an orchestrate stage, from its start to its end.

The database's library takes a third of a second to import, so it is imported in the background once the port
is open, and requests for runs wait for it; requests that ask for no run do not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.types import ASGIApp

from functions.orchestration.runs.config import RunsConfig
from functions.orchestration.runs.durable_steps import Codec
from functions.orchestration.runs.errors import DatabaseError
from functions.orchestration.runs.execution import Body, RunExecution
from functions.orchestration.runs.invocations import DurableInvocation
from functions.orchestration.runs.routes import runs_router
from functions.orchestration.runs.runner import RunRunner
from functions.orchestration.runs.service import RunService
from functions.settings import FunctionSettings, SettingsError, read_secret
from functions.stage import DirectRoute, RequestContext, StageRoutes
from knative import env_vars

if TYPE_CHECKING:
    from functions.orchestration.runs.store import RunStore

log = logging.getLogger(__name__)

CLOSE_S = 4.0
"""For steps that are under way when the replica has drained; the server gives five seconds for all."""


class DurableRuns:
    """Durable runs of one stage.

    Args:
        config: `runs` of the stage's configuration.
        url: of the database.
        body: answers a request by way of its steps.
        codec: of the steps' results.
        stage: the stage's name.
    """

    def __init__(self, config: RunsConfig, url: str, body: Body, codec: Codec, *, stage: str) -> None:
        self._config = config
        self._url = url
        self._body = body
        self._codec = codec
        self._stage = stage
        self._loading: asyncio.Task[RunService] | None = None

    def start(self) -> None:
        """Connect in the background; from then on this replica takes up runs."""
        self._loading = asyncio.create_task(self._load())

    async def service(self) -> RunService:
        """The runs; waits until they can be used."""
        if self._loading is None:
            raise RuntimeError("runs are used before the stage has started")
        return await asyncio.shield(self._loading)

    def routes(self, plain: Callable[[RequestContext], ASGIApp]) -> StageRoutes:
        """`/runs`, and an `/invoke` that makes runs of those requests that ask for it.

        Args:
            plain: answers the others.
        """
        invoke = DurableInvocation(self.service, plain, stage=self._stage)
        return StageRoutes(
            router=runs_router(self.service),
            direct=(DirectRoute(invoke, paths=frozenset({"/invoke"}), prefixes=_NO_PREFIX),),
        )

    def drain(self) -> None:
        """Take up nothing more; runs stop after the step that they are at."""
        if self._loading is not None and self._loading.done() and not self._loading.cancelled():
            self._loading.result().runner.drain()

    async def close(self) -> None:
        """Give every run back."""
        if self._loading is None:
            return
        if not self._loading.done():
            self._loading.cancel()
            await asyncio.wait({self._loading})
        if not self._loading.cancelled():
            await self._loading.result().runner.close(CLOSE_S)

    async def _load(self) -> RunService:
        store = await asyncio.to_thread(_open_store, self._url, self._config.pool)
        try:
            await store.database.open()
        except DatabaseError as error:
            # Each request for a run tries again, and the replica's own look at the runs too.
            log.error("the store of runs cannot be used: %s", error)  # noqa: TRY400 - the reason says all
        execution = RunExecution(store, self._config, self._body, self._codec, stage=self._stage)
        runner = RunRunner(self._config, store, execution)
        runner.start()
        return RunService(runner)


_NO_PREFIX: tuple[str, ...] = ()


def _open_store(url: str, pool: int) -> RunStore:
    from functions.orchestration.runs.database import Database  # noqa: PLC0415 - see the module's docstring
    from functions.orchestration.runs.store import RunStore as Store  # noqa: PLC0415

    return Store(Database(url, pool=pool))


def database_url(config: RunsConfig, settings: FunctionSettings) -> str:
    """The address of the database of a stage's runs.

    Raises:
        SettingsError: Postgres without an address, or one of another kind.
    """
    if config.store == "sqlite":
        if config.path is None and settings.runs_dir is None:
            path = f"{env_vars.STAGE_CONFIG}.runs.path is not set, must be the path of a file on a volume"
            raise SettingsError((f"{path} (or {env_vars.RUNS_DIR} a folder) with runs.store = sqlite",))
        folder, name = settings.runs_dir or Path(), f"{settings.service or 'orchestrate'}.sqlite"
        return f"sqlite:///{config.path or folder / name}"
    url = read_secret(env_vars.RUNS_URL)
    shape = f"{env_vars.RUNS_URL}_FILE or {env_vars.RUNS_URL}"
    if url is None:
        raise SettingsError(
            (f"{shape} is not set, must be with runs.store = postgres (spec.runs of a Secret)",)
        )
    if not url.startswith(("postgresql://", "postgres://")):
        raise SettingsError((f"{shape} = (hidden): must be postgresql://USER:PASSWORD@HOST:PORT/NAME",))
    return url.replace("postgres://", "postgresql://", 1)
