"""The stages that run in the orchestrate stage's own process: made, started, and called."""

from __future__ import annotations

import asyncio
import importlib
from dataclasses import replace

from functions.calls.colocated import ColocatedStage
from functions.calls.port import ObserveCall
from functions.replica import ReplicaTracker
from functions.settings import Colocated, FunctionSettings, SettingsError, StageAddress
from functions.stage import Stage, StageRuntime, StartError
from functions.timing import Phase


class ColocatedStages:
    """All of them.

    Args:
        settings: of the orchestrate stage; each gets what of them is the process's own.

    Raises:
        SettingsError: a bad config of one of them.
    """

    def __init__(self, settings: FunctionSettings) -> None:
        self._stages = {
            address.name: _build(settings, address, address.colocated)
            for address in settings.stages
            if address.colocated is not None
        }

    def __bool__(self) -> bool:
        return bool(self._stages)

    async def start(self, replica: ReplicaTracker) -> None:
        """Start all at once. What they load counts as the process's own start.

        Raises:
            StartError: the first that cannot start.
        """
        await asyncio.gather(*(_start(name, stage, replica) for name, stage in self._stages.items()))

    def callable(self, runtime: StageRuntime, observe: ObserveCall) -> dict[str, ColocatedStage]:
        """Each as it is called, by name."""
        return {name: ColocatedStage(name, stage, runtime, observe) for name, stage in self._stages.items()}


def _build(settings: FunctionSettings, address: StageAddress, told: Colocated) -> Stage:
    own = replace(
        settings,
        service=address.name,
        stages=(),
        graph=None,
        stage_config=told.config,
        model_uri=told.model_uri,
        engine_args={},
    )
    try:
        # By its name, as `python -m functions KIND` does: stages know nothing of each other.
        stage: Stage = importlib.import_module(f"functions.stages.{address.kind}").build(own)
    except SettingsError as error:
        raise SettingsError(
            tuple(f"stage {address.name}: {problem}" for problem in error.problems)
        ) from error
    return stage


async def _start(name: str, stage: Stage, replica: ReplicaTracker) -> None:
    own = ReplicaTracker()
    try:
        await stage.start(own)
    except StartError as error:
        raise StartError(f"stage {name}: {error}") from error
    for phase, seconds in own.cold_start.phases.items():
        if phase is not Phase.IMPORT:
            replica.record(phase, seconds)
