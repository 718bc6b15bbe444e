"""What a replay is told: its plan, its platform, what it shows, and where its records go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from knative.client.cluster import Cluster
from pilotlight.replay.arms import ReplayArm
from pilotlight.replay.errors import ReplayError
from pilotlight.replay.exchange import Exchange
from pilotlight.replay.pools import Targets
from pilotlight.replay.sender import Planned
from warmpool.experiments.replay_results import ArmRecord, ReplayHeader, RequestRecord, line


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """What is sent.

    Attributes:
        exchange: how each request is put.
        trace: its name.
        requests: in the order of their instants, already scaled.
        speed: by which they were.
        arms: None: the pool off and on, as it is; empty: one arm, and the pools are left alone.
        only: names of the arms to run; empty: all.
        max_in_flight: requests on their way at once, at most.
        seed: of the prompts.
    """

    exchange: Exchange
    trace: str
    requests: Sequence[Planned]
    speed: float = 1.0
    arms: tuple[ReplayArm, ...] | None = None
    only: tuple[str, ...] = ()
    max_in_flight: int = 256
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Platform:
    """Where the pools are, and what counts GPU-seconds."""

    cluster: Cluster
    kubeconfig: Path | None
    targets: Targets


@dataclass(slots=True)
class ReplayProgress:
    """What is shown while it runs."""

    told: Callable[[str, str, float], None] = lambda *_: None
    """Gets the arm, what happens, and the share of its requests that was answered."""
    warnings: list[str] = field(default_factory=list)
    begun: bool = False
    """Whether the file of results has its first line."""


@dataclass(frozen=True, slots=True)
class ResultsFile:
    """Where the records go.

    Attributes:
        stream: open for writing.
        path: its name in messages; a copy of the pools is kept beside it.
    """

    stream: TextIO
    path: Path

    def write(self, record: ReplayHeader | RequestRecord | ArmRecord) -> None:
        """Write a record so that it is there whatever happens next.

        Raises:
            ReplayError: the file cannot be written.
        """
        try:
            self.stream.write(line(record) + "\n")
            self.stream.flush()
        except OSError as error:
            raise ReplayError(f"{self.path}: cannot be written: {error.strerror}") from error
