"""How a replica gets a template process, and from it an engine that answers; each step is a phase.

`warmth_controller` decides when.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp

from functions.engine import EngineError
from functions.engines.vllm import options
from functions.engines.vllm.client import VllmEngine
from functions.engines.vllm.compiled import CompiledArtefacts
from functions.engines.vllm.engine_process import EngineProcess, EngineStartError
from functions.engines.vllm.model_files import ModelFiles
from functions.engines.vllm.openmp import is_cpu_build
from functions.engines.vllm.option_schema import installed_release
from functions.engines.vllm.special_token_text import SpecialTokenText
from functions.engines.vllm.template_process import TemplateError, TemplateProcess
from functions.engines.vllm.template_snapshots import TemplateSnapshots
from functions.lifecycle import Warmth
from functions.replica import ReplicaTracker
from functions.settings import FunctionSettings
from functions.stage import StartError
from functions.timing import Phase
from knative import env_vars

log = logging.getLogger(__name__)

NO_SLEEP_MODE = "vLLM has no sleep mode on CPUs; must be hot or standby here"


class Launcher:
    """Owner of the template process and of what an engine is started with.

    Args:
        settings: the replica's settings: model, options, cache folder.
        files: the model's files, which are fetched while vLLM is imported.
        artefact_key: signs compiled artefacts; None to restore only those of this user.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        settings: FunctionSettings,
        files: ModelFiles,
        *,
        artefact_key: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._files = files
        self._compiled = CompiledArtefacts(settings.cache_dir, settings.engine_args, artefact_key)
        self._snapshots = TemplateSnapshots(settings, artefact_key)
        self._clock = clock
        self._template: TemplateProcess | None = None
        self._model: Path | None = None
        self._special_tokens: SpecialTokenText | None = None
        self._version = self._device_name = ""
        self.device: str | None = None
        """vLLM's name of the platform (cpu, cuda); None until vLLM is imported."""

    @property
    def has_worker_processes(self) -> bool:
        """Whether workers are processes of their own, which leave shared memory behind if they are killed."""
        args = self._settings.engine_args
        sizes = (args.get(f"{kind}-parallel-size", 1) for kind in ("tensor", "pipeline", "data"))
        return any(isinstance(size, int) and size > 1 for size in sizes)

    @property
    def sleep_mode_enabled(self) -> bool:
        """Whether the user asked for vLLM's sleep mode."""
        return bool(self._settings.engine_args.get("enable-sleep-mode"))

    def check(self, resting_warmth: Warmth) -> None:
        """Check the options and the resting warmth before anything is fetched or imported.

        Raises:
            StartError: names what is wrong.
        """
        if resting_warmth is Warmth.ASLEEP and is_cpu_build():
            raise StartError(f"{env_vars.WARMTH} = asleep: {NO_SLEEP_MODE}")
        try:
            options.command_line(self._settings.engine_args, model=Path("model"), name="model")
        except ValueError as error:
            raise StartError(f"{env_vars.ENGINE_ARGS}: {error}") from None

    async def prepare(self, replica: ReplicaTracker, *, complete: bool) -> None:
        """Fetch the model and import vLLM side by side; the first failure ends both.

        Args:
            replica: where the phases are recorded.
            complete: wait until all weights are in the cache; otherwise an engine may be started before.

        Raises:
            StartError: with the cause.
        """
        try:
            async with asyncio.TaskGroup() as group:
                started = group.create_task(self._start_template())
                importing = group.create_task(self._import(replica, started))
                group.create_task(self._fetch(replica, started, set() if complete else {importing}))
        except TemplateError as error:
            raise StartError(str(error)) from None
        except BaseExceptionGroup as errors:
            first = errors.exceptions[0]
            if isinstance(first, TemplateError):
                raise StartError(str(first)) from None
            raise first from None
        if (manifest := self._files.manifest) is not None:
            engine = installed_release() or self._version
            await self._compiled.restore(manifest, engine, self._device_name, self._arguments())

    def _arguments(self) -> dict[str, Any]:
        """The user's options with what the replica adds."""
        assert self._model is not None
        given = self._settings.engine_args
        return {**options.defaults(given, self._model, self.device or ""), **given, **self._files.options()}

    def fork(self, *, sleep_mode: bool) -> EngineProcess:
        """Order an engine from the template."""
        assert self._template is not None
        assert self._model is not None
        args = self._arguments()
        if sleep_mode:
            args["enable-sleep-mode"] = True
        argv = options.command_line(args, model=self._model, name=self._name)
        process = self._template.fork(argv, cache_root=self._compiled.folder)
        process.loading.add_done_callback(lambda _: self._files.engine_loads())
        return process

    async def connect(self, replica: ReplicaTracker, process: EngineProcess) -> VllmEngine:
        """Wait until the engine has answered its first request.

        Raises:
            StartError: it did not come up; the message is the cause.
        """
        began = self._clock()
        try:
            await process.wait_serving()
        except EngineStartError as error:
            raise StartError(self._files.failure or str(error)) from None
        replica.record(Phase.WEIGHTS, process.load_seconds)
        replica.record(Phase.INIT, max(0.0, self._clock() - began - process.load_seconds))
        engine = VllmEngine.on(
            process.socket,
            process.dead,
            model=self._name,
            version=self._version,
            special_tokens=self._special_tokens,
        )
        try:
            with replica.measure(Phase.WARMUP):
                await engine.warm_up()
        except (EngineError, aiohttp.ClientError) as error:
            await engine.close()
            raise StartError(
                f"the engine answers no request: {error if process.alive else process.cause}"
            ) from None
        self._files.pin()
        self._compiled.save()
        assert self._model is not None
        self._snapshots.save(self._model)
        return engine

    async def ensure_template(self, replica: ReplicaTracker) -> None:
        """Start another template process if the last one has died.

        Raises:
            StartError: it does not start.
        """
        assert self._template is not None
        if not self._template.ended.done():
            return
        log.error("template process died; starting another one")
        await self._template.close()
        try:
            await self._import(replica, asyncio.create_task(self._start_template()))
        except TemplateError as error:
            raise StartError(str(error)) from None
        if self._model is not None:
            self._template.import_architecture(self._model)

    async def close(self) -> None:
        """End the template with all engines forked from it, and release the files."""
        await self._snapshots.close()
        if self._template is not None:
            await self._template.close()
            self._template = None
        await self._compiled.close()
        await self._files.close()

    @property
    def _name(self) -> str:
        assert self._model is not None
        return self._settings.model_name or self._model.name

    async def _fetch(
        self, replica: ReplicaTracker, started: asyncio.Task[TemplateProcess], until: set[asyncio.Task[None]]
    ) -> None:
        """Fetch the model; of its weights, as much as arrives until one of these tasks is done."""

        def use(folder: Path) -> None:
            self._model = folder
            started.result().import_architecture(folder)

        with replica.measure(Phase.WEIGHTS):
            folder = await self._files.fetch()
        await asyncio.shield(started)
        use(folder)
        self._special_tokens = await asyncio.to_thread(SpecialTokenText.load, folder)
        prefetch = self._files.start_prefetch(
            lambda seconds: replica.record(Phase.WEIGHTS, seconds), on_replaced=use
        )
        if prefetch is not None:
            await asyncio.wait({prefetch, *until}, return_when=asyncio.FIRST_COMPLETED)
            if prefetch.done():
                await prefetch

    async def _start_template(self) -> TemplateProcess:
        """A template process: restored where there is a snapshot that fits, else importing."""
        self._template = await self._snapshots.restore() or await TemplateProcess.start()
        return self._template

    async def _import(self, replica: ReplicaTracker, started: asyncio.Task[TemplateProcess]) -> None:
        began = self._clock()
        template = await asyncio.shield(started)
        imported = await template.imported()
        if template.restored:
            replica.record(Phase.RESTORE, self._clock() - began)
        else:
            replica.record(Phase.IMPORT, imported.seconds)
        self._version, self.device = imported.version, imported.device
        self._device_name = imported.device_name
