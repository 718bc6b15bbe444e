"""`pilotlight experiment` on what the controller remembers of a Service."""

from datetime import UTC, datetime, timedelta

import pytest
import yaml
from typer.testing import CliRunner

from pilotlight.cli.experiment import app
from warmpool.adapters.history import SqliteHistory
from warmpool.domain.cold_start import ColdStart
from warmpool.domain.observation import Demand
from warmpool.domain.pool import WarmPoolSpec
from warmpool.experiments.errors import ExperimentError, TraceError
from warmpool.experiments.formats import read_trace

SERVICE = ("default", "generate")
DAYS = 4


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    """Four days that end now: two requests of three seconds a minute in eight hours of each, cold starts of 48 s."""
    path = tmp_path_factory.mktemp("history") / "warmpool.db"
    begin = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(days=DAYS)
    kept = SqliteHistory(path)
    for index in range(DAYS * 1440):
        at = begin + timedelta(minutes=index)
        if 9 <= at.hour < 17:
            kept.add_demand(at, {SERVICE: Demand(0.1, at, arrivals=2.0)})
    for index in range(4):
        kept.add_cold_start(SERVICE, ColdStart(begin + timedelta(hours=index), 48.0))
    kept.save(datetime.now(UTC), {})
    kept.close()
    return path


def run(*arguments):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def test_a_recommendation_takes_the_demand_and_the_cold_starts_of_the_history(history):
    done = run("recommend", "--history", history, "--service", "default/generate", "--concurrency", 4)

    pool = yaml.safe_load(done.stdout)
    assert pool["metadata"] == {"name": "generate", "namespace": "default"}
    assert WarmPoolSpec.parse(pool["spec"])
    assert "a start takes 48.0 s" in done.stderr


def test_the_demand_is_described_and_written_as_a_trace(history, tmp_path):
    described = run("describe", "--history", history, "--service", "default/generate")
    written = run("collect", tmp_path / "trace.csv", "--history", history, "--service", "default/generate")
    trace = read_trace(tmp_path / "trace.csv")

    assert "service   3 s in the mean" in described.stdout
    assert written.stdout.startswith(f"{len(trace):,} requests of ")
    assert len(trace) == DAYS * 8 * 60 * 2
    assert trace.service_s[0] == pytest.approx(3.0)


def test_a_service_without_requests_and_a_file_that_is_no_history_are_named(history, tmp_path):
    (tmp_path / "other.db").write_text("not a database, but long enough to look at")

    with pytest.raises(TraceError, match="default/other: no requests are recorded"):
        run("describe", "--history", history, "--service", "default/other")
    with pytest.raises(ExperimentError, match=r"other\.db: not a history of the controller"):
        run("describe", "--history", tmp_path / "other.db", "--service", "default/generate")
