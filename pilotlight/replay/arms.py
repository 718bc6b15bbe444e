"""The arms of a replay: the same requests, each time with another warm pool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pilotlight.replay.sender import Planned
from warmpool.experiments.errors import ExperimentError
from warmpool.experiments.experiment import ArmSpec

POOL_OFF: Final = "pool off"
POOL_ON: Final = "pool on"


@dataclass(frozen=True, slots=True)
class ReplayArm:
    """One arm.

    Attributes:
        name: its name.
        pool: a WarmPool's spec without target; None: the pool is off.
        requests: its own; None: those of the plan.
        max_in_flight: its own; None: that of the plan.
    """

    name: str
    pool: Mapping[str, Any] | None
    requests: Sequence[Planned] | None = None
    max_in_flight: int | None = None


def spec_of_floor(replicas: int) -> dict[str, Any]:
    """A WarmPool's spec without target that always holds so many replicas."""
    return {"windows": [{"name": "always", "from": "00:00", "to": "24:00", "replicas": replicas}]}


def default_arms(own_pool: Mapping[str, Any] | None) -> tuple[ReplayArm, ...]:
    """The pool off and on, as it is; with a floor of one where the Service has no pool."""
    return (ReplayArm(POOL_OFF, None), ReplayArm(POOL_ON, own_pool or spec_of_floor(1)))


def arm_of(spec: ArmSpec) -> ReplayArm:
    """An experiment's arm as a WarmPool to put in force.

    Raises:
        ExperimentError: it differs in the shape of a replica, which a replay does not change.
    """
    if spec.replica is not None:
        raise ExperimentError(
            f"arm {spec.name!r} has a replica of its own: a replay calls the Service as it is deployed; "
            "--arm names those to replay"
        )
    if spec.fixed is not None:
        return ReplayArm(spec.name, spec_of_floor(spec.fixed))
    if spec.pool is not None:
        return ReplayArm(spec.name, spec.pool.to_wire())
    if spec.forecast is not None:
        wire = spec.forecast.model_dump(mode="json", by_alias=True, exclude_none=True)
        return ReplayArm(spec.name, {"forecast": wire})
    return ReplayArm(spec.name, None)


def select(arms: Sequence[ReplayArm], names: Sequence[str]) -> tuple[ReplayArm, ...]:
    """The arms of these names, in their own order; all without a name.

    Raises:
        ExperimentError: there is none of a name.
    """
    known = [arm.name for arm in arms]
    if unknown := [name for name in names if name not in known]:
        raise ExperimentError(f"--arm {unknown[0]!r}: must be one of {', '.join(map(repr, known))}")
    return tuple(arm for arm in arms if not names or arm.name in names)
