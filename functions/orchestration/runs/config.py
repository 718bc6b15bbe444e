"""`runs` in the configuration of an orchestrate stage: where runs are kept, for how long, and how many."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from functions.stage_config import StageConfig


class RunsConfig(StageConfig):
    """Durable runs; without it there are none."""

    store: Literal["sqlite", "postgres"]
    path: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    """The SQLite file; by default one per Service in the state folder."""
    content: Literal["full", "metadata"] = "full"
    """`metadata`: requests, results and replies are never stored, so the runs of a lost replica fail."""
    retention_seconds: Annotated[float, Field(ge=60, le=10 * 365 * 86_400)] = 7 * 86_400.0
    """For how long a run that has ended is kept."""
    run_seconds: Annotated[float, Field(gt=0, le=30 * 86_400)] = 3600.0
    """How long a run may work without waiting, from when a replica takes it up."""
    wait_seconds: Annotated[float, Field(gt=0, le=365 * 86_400)] = 7 * 86_400.0
    """How long a run waits for a person before it fails."""
    approve: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Stages and tools that are called only once a person has approved the call."""
    step_attempts: Annotated[int, Field(ge=1, le=1000)] = 5
    """How often a step that fails in a way that may pass is tried, with a timer between, holding nothing."""
    retry_seconds: Annotated[float, Field(gt=0, le=86_400)] = 10.0
    """Before the second attempt; doubled for each one after it, at most an hour."""
    max_steps: Annotated[int, Field(ge=1, le=100_000)] = 1000
    """Steps of one run."""
    max_unfinished: Annotated[int, Field(ge=1, le=10_000_000)] = 10_000
    """Runs of one caller that have not ended; further ones are refused with 429."""
    concurrency: Annotated[int, Field(ge=1, le=10_000)] = 64
    """Runs that a replica works on at once; others wait in the store."""
    lease_seconds: Annotated[float, Field(ge=1, le=3600)] = 15.0
    """After so long without a word from its replica a run is taken up by another."""
    patience_seconds: Annotated[float, Field(ge=0, le=600)] = 10.0
    """How long a request is held while the database is away, before it is refused with 503."""
    pool: Annotated[int, Field(ge=1, le=100)] = 2
    """Connections of a replica for writing to Postgres; there are as many for reading."""

    @model_validator(mode="after")
    def _fits(self) -> RunsConfig:
        if self.path is not None and self.store != "sqlite":
            raise ValueError("path is for store sqlite; Postgres' address comes from a Secret")
        if self.approve and self.content == "metadata":
            raise ValueError(
                "approve cannot be used with content metadata: what waits keeps its content in the store"
            )
        return self
