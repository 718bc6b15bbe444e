"""Keeps a request open at orchestrate for each run that somebody has to work on.

A scaler sees requests, not runs: this request starts a replica for a timer that is due or for the runs of a
lost replica, keeps it while a run works, and counts when replicas are added. The database is asked, not the
stage, so a stage with nothing to do stays at zero.

`python -m functions.orchestration.runs.waker` is one process for one agent. It has the environment of the
orchestrate stage, but for `PILOTLIGHT_STAGES`, which names the orchestrate stage alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import urlsplit

import aiohttp
from pydantic import ValidationError

from functions import logs
from functions.auth import stage_token
from functions.auth.authenticator import stage_token_of
from functions.orchestration.runs.config import RunsConfig
from functions.orchestration.runs.database import Database
from functions.orchestration.runs.durable_runs import database_url
from functions.orchestration.runs.errors import DatabaseError
from functions.orchestration.runs.store import RunStore
from functions.problems import field_errors
from functions.settings import FunctionSettings, SettingsError, read_settings
from knative import env_vars

log = logging.getLogger(__name__)

LOOK_S: Final = 2.0
"""Between two looks at the database."""
MAX_OPEN: Final = 256
"""Requests that are open at the same time; further runs follow as these end."""
_REQUEST_S: Final = 330.0
_AGAIN_S: Final = 2.0


class Waker:
    """Wakes the runs of one store.

    Args:
        store: where they are.
        url: of the orchestrate stage.
        headers: of each request; asked for each time, because tokens change.
        look_s: seconds between two looks at the database.
    """

    def __init__(
        self,
        store: RunStore,
        url: str,
        headers: Callable[[], Mapping[str, str]] = dict,
        *,
        look_s: float = LOOK_S,
    ) -> None:
        self._store = store
        self._url = url.rstrip("/")
        self._headers = headers
        self._look_s = look_s
        self._open: dict[str, asyncio.Task[None]] = {}
        self._complained = ""

    async def run(self) -> None:
        """Until cancelled."""
        timeout = aiohttp.ClientTimeout(total=_REQUEST_S, sock_connect=10.0)
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar(), timeout=timeout
        ) as session:
            try:
                while True:
                    await self.look(session)
                    await asyncio.sleep(self._look_s)
            finally:
                for task in tuple(self._open.values()):
                    task.cancel()
                await asyncio.gather(*tuple(self._open.values()), return_exceptions=True)

    async def look(self, session: aiohttp.ClientSession) -> None:
        """Look once, and open the requests that are missing."""
        try:
            found = await self._store.unfinished(limit=MAX_OPEN)
        except DatabaseError as error:
            self._complain(str(error))
            return
        for run_id in found:
            if run_id not in self._open and len(self._open) < MAX_OPEN:
                self._open[run_id] = asyncio.create_task(self._drive(session, run_id))

    async def _drive(self, session: aiohttp.ClientSession, run_id: str) -> None:
        try:
            async with session.post(
                f"{self._url}/runs/{run_id}/drive",
                json={},
                headers={"X-Pilotlight-Progress": "off", **self._headers()},
            ) as response:
                await response.read()
                if response.status != 200:
                    self._complain(f"{self._url} answered {response.status} to a run that is to go on")
                    await asyncio.sleep(_AGAIN_S)
                self._complained = ""
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            # A replica that is killed cuts its requests off; the next look asks for another one.
            log.debug("a run's request was cut off", extra={"run": run_id, "reason": str(error)})
            await asyncio.sleep(min(_AGAIN_S, self._look_s))
        finally:
            self._open.pop(run_id, None)

    def _complain(self, reason: str) -> None:
        """Say what is wrong, once."""
        if reason != self._complained:
            self._complained = reason
            log.warning("runs cannot be woken", extra={"reason": reason})


def waker_of(settings: FunctionSettings) -> Waker:
    """The waker of an agent.

    Raises:
        SettingsError: no runs, no database, or no stage to ask.
    """
    runs = settings.stage_config.get("runs")
    address = next((stage for stage in settings.stages if stage.kind == "orchestrate"), None)
    if runs is None or address is None:
        raise SettingsError(
            ("the waker needs runs in PILOTLIGHT_STAGE_CONFIG and orchestrate in PILOTLIGHT_STAGES",)
        )
    try:
        # Through JSON, where a strict model takes a list for a tuple.
        config = RunsConfig.model_validate_json(json.dumps(runs))
    except ValidationError as error:
        raise SettingsError(
            tuple(
                f"{env_vars.STAGE_CONFIG}.runs.{entry['field']} = {entry['value']!r}: {entry['message']}"
                for entry in field_errors(error.errors(include_url=False, include_context=False))
            )
        ) from None
    token = stage_token_of(settings)
    host = {} if settings.gateway is None else {"Host": urlsplit(address.url).netloc}

    def headers() -> Mapping[str, str]:
        current = None if token is None else token.current()
        return host if current is None else {**host, stage_token.HEADER: current}

    store = RunStore(Database(database_url(config, settings), pool=1))
    return Waker(store, settings.gateway or address.url, headers)


async def _serve(settings: FunctionSettings) -> None:
    waking = asyncio.create_task(waker_of(settings).run())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, waking.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await waking


def main() -> int:
    """Run until told to stop; the process's exit code: 2 for a bad environment."""
    try:
        settings = read_settings()
        logs.configure(settings)
        asyncio.run(_serve(settings))
    except SettingsError as error:
        print(f"waker: {'; '.join(error.problems)}", file=sys.stderr)  # noqa: T201 - the command's own error line
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
