"""Where the requests of an experiment come from: a file, the controller's history, or a Prometheus."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from warmpool.adapters import history_database, prometheus_history
from warmpool.adapters.history_tables import DemandMinute
from warmpool.adapters.prometheus_api import PrometheusError, PrometheusServer
from warmpool.domain.duration import parse_duration
from warmpool.domain.object_key import ObjectKey
from warmpool.experiments.errors import ExperimentError
from warmpool.experiments.formats import read_trace
from warmpool.experiments.minutes import Minute, trace_of_minutes
from warmpool.experiments.trace import Trace

TraceFile = Annotated[
    Path | None,
    typer.Argument(metavar="[TRACE]", help="Trace file: CSV, JSON lines (both also with gzip) or Parquet."),
]
History = Annotated[
    Path | None,
    typer.Option("--history", help="Instead of a file: the controller's history (warmpool.db)."),
]
PrometheusUrl = Annotated[
    str | None,
    typer.Option("--prometheus", help="Instead of a file: URL of a Prometheus that scrapes Knative."),
]
TokenFile = Annotated[Path | None, typer.Option("--prometheus-token-file", help="Bearer token for it.")]
CaFile = Annotated[
    Path | None, typer.Option("--prometheus-ca-file", help="Certificates that its own is checked against.")
]
Service = Annotated[
    str | None,
    typer.Option("--service", help="NAMESPACE/NAME of the Service whose requests are read from there."),
]
Last = Annotated[str, typer.Option("--last", help="How far to look back there.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="For arrivals that the source does not hold.")]
SkipBadRows = Annotated[bool, typer.Option("--skip-bad-rows", help="Go on after a bad row.")]
DEFAULT_LAST = "35d"


@dataclass(frozen=True, slots=True)
class TraceSource:
    """What was given; exactly one of the first three is."""

    file: Path | None
    history: Path | None
    prometheus: PrometheusServer | None
    service: str | None
    last: str
    seed: int
    skip_bad_rows: bool = False

    def check(self) -> None:
        """Whether the source can be, before anything is read.

        Raises:
            ExperimentError: none is given, or several, or no Service for those that have many.
        """
        given = [value for value in (self.file, self.history, self.prometheus) if value is not None]
        if len(given) != 1:
            raise ExperimentError("give exactly one of a trace file, --history and --prometheus")
        if self.file is None:
            _ = self.key, self.span
        elif self.service is not None:
            raise ExperimentError("--service goes with --history and --prometheus, not with a trace file")

    @property
    def key(self) -> ObjectKey:
        """The Service."""
        namespace, slash, name = (self.service or "").partition("/")
        if not (namespace and slash and name):
            raise ExperimentError(f"--service = {self.service or ''!r}, must be NAMESPACE/NAME")
        return namespace, name

    @property
    def span(self) -> timedelta:
        """How far to look back."""
        try:
            return parse_duration(self.last)
        except ValueError as problem:
            raise ExperimentError(f"--last = {self.last!r}, {problem}") from None

    def read(self, now: datetime) -> Trace:
        """The trace.

        Raises:
            ExperimentError: it cannot be read, or has no requests.
        """
        self.check()
        if self.file is not None:
            return read_trace(self.file, seed=self.seed, skip_bad_rows=self.skip_bad_rows)
        since = now - self.span
        if self.history is not None:
            if not self.history.is_file():
                raise ExperimentError(f"{self.history}: there is no such file")
            self.measured_cold_start_s()  # refuses what is no history, which would look like no demand
            minutes = history_database.read_minutes(self.history, self.key, since)
        else:
            assert self.prometheus is not None
            try:
                minutes = asyncio.run(prometheus_history.read_minutes(self.prometheus, self.key, since, now))
            except PrometheusError as problem:
                raise ExperimentError(str(problem)) from None
        return trace_of_minutes(_plain(minutes), "/".join(self.key), seed=self.seed)

    def measured_cold_start_s(self) -> float | None:
        """The p95 of the Service's cold starts in the history; None: it knows none."""
        if self.history is None:
            return None
        try:
            starts = history_database.read_cold_starts(self.history, self.key)
        except OSError as problem:
            raise ExperimentError(f"{self.history}: {problem.strerror}") from None
        return float(np.quantile([start.seconds for start in starts], 0.95)) if starts else None


def source(  # noqa: PLR0917 - the options of a source, in their order
    file: Path | None,
    history: Path | None,
    prometheus: str | None,
    token_file: Path | None,
    ca_file: Path | None,
    service: str | None,
    last: str,
    seed: int,
    *,
    skip_bad_rows: bool = False,
) -> TraceSource:
    """The source that the options name.

    Raises:
        ExperimentError: they name none, or several.
    """
    server = PrometheusServer(prometheus, token_file, ca_file, timeout_s=60) if prometheus else None
    made = TraceSource(file, history, server, service, last, seed, skip_bad_rows)
    made.check()
    return made


def now() -> datetime:
    """This instant."""
    return datetime.now(UTC)


def _plain(minutes: Sequence[DemandMinute]) -> list[Minute]:
    return [Minute(minute.at, minute.arrivals, minute.concurrency) for minute in minutes]
