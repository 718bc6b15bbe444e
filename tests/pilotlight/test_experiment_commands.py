"""`pilotlight experiment ...` as a user runs it."""

import json

import yaml

from tests.pilotlight.conftest import Cli
from tests.warmpool.experiments.test_experiment import document
from tests.warmpool.experiments.test_imports import cron, scaled_object
from warmpool.domain.pool import WarmPoolSpec
from warmpool.experiments.experiment import parse_experiment


def test_an_experiment_is_run_and_its_report_is_written(cli: Cli, tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(document()))

    ran = cli.run("experiment", "run", str(path), "-o", str(tmp_path / "out"))

    assert ran.returncode == 0, ran.stderr
    assert "pool off" in ran.stdout
    assert "cheapest with at most 5.00% cold: " in ran.stdout
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000


def test_figures_are_printed_as_json(cli: Cli, tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(document()))

    ran = cli.run("experiment", "run", str(path), "-o", str(tmp_path / "out"), "--json")

    assert json.loads(ran.stdout)["complete"] is True


def test_a_mistake_is_one_line_and_exit_code_2(cli: Cli, tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump(document(objective="0%")))

    ran = cli.run("experiment", "run", str(path))

    assert ran.returncode == 2
    assert ran.stderr.startswith(f"error: {path}: spec.objective = ")
    assert len(ran.stderr.splitlines()) == 1


def test_ctrl_c_ends_a_long_run_and_says_what_is_written(cli: Cli, tmp_path):
    (tmp_path / "trace.csv").write_text("timestamp\n" + "\n".join(str(i * 30) for i in range(400_000)) + "\n")
    path = tmp_path / "long.yaml"
    path.write_text(yaml.safe_dump(document(trace={"file": "trace.csv"})))
    running = cli.start("experiment", "run", str(path), "-o", str(tmp_path / "out"))

    running.until(lambda output: "400,000 requests, 3 arms" in output)
    code = running.interrupt(timeout=120)  # the simulator may still be compiled

    assert code == 130
    assert "interrupted before the first arm was finished; nothing is written" in running.output
    assert not (tmp_path / "out").exists()


def test_a_trace_is_described(cli: Cli, tmp_path):
    trace = tmp_path / "trace.csv"
    trace.write_text("timestamp\n" + "\n".join(str(i * 7) for i in range(200)) + "\nbad\n")

    refused = cli.run("experiment", "describe", str(trace))
    described = cli.run("experiment", "describe", str(trace), "--skip-bad-rows", "--service-s", "3")

    assert refused.returncode == 2
    assert f"{trace}:202: timestamp = 'bad'" in refused.stderr
    assert described.returncode == 0
    assert "200 of 1 functions" in described.stdout
    assert "skipped line 202" in described.stderr


def test_a_recommendation_is_a_warm_pool_that_can_be_applied(cli: Cli, tmp_path):
    trace = tmp_path / "trace.csv"
    rows = [
        86_400 * day + 3600 * hour + 90 * step
        for day in range(12)
        if day % 7 < 5
        for hour in range(9, 17)
        for step in range(40)
    ]
    trace.write_text("timestamp,service_s\n" + "\n".join(f"{row},4" for row in rows) + "\n")

    ran = cli.run("experiment", "recommend", str(trace), "--target", "generate-support", "--load-s", "60",
                  "--start", "2026-03-02T09:00:00Z", "--concurrency", "4", timeout=200)  # fmt: skip

    assert ran.returncode == 0, ran.stderr
    pool = yaml.safe_load(ran.stdout)
    assert pool["kind"] == "WarmPool"
    assert pool["spec"]["target"] == "generate-support"
    assert pool["spec"]["windows"][0]["days"] == ["Mon", "Tue", "Wed", "Thu", "Fri"]
    assert WarmPoolSpec.parse(pool["spec"])
    assert "judged by the" in ran.stderr


def test_what_a_user_has_today_is_printed_as_a_warm_pool_and_as_an_arm(cli: Cli, tmp_path):
    path = tmp_path / "scaled-object.yaml"
    path.write_text(yaml.safe_dump(scaled_object(cron())))

    pool = cli.run("experiment", "import", str(path))
    arm = cli.run("experiment", "import", str(path), "--arm")

    assert WarmPoolSpec.parse(yaml.safe_load(pool.stdout)["spec"])
    assert "note: spec.cooldownPeriod" in pool.stderr
    assert parse_experiment(document(arms=yaml.safe_load(arm.stdout)))


def test_where_a_report_cannot_be_written_is_said_before_anything_is_simulated(cli: Cli, tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(document()))
    taken = tmp_path / "taken"
    taken.write_text("mine")

    for out in (taken, taken / "below"):
        ran = cli.run("experiment", "run", str(path), "-o", str(out))
        assert ran.returncode == 2
        assert ran.stderr == f"error: --out {out}: {taken} is a file, must be a folder\n"
    assert taken.read_text() == "mine"


def test_a_recommendation_needs_a_target_and_an_instant_that_can_be(cli: Cli, tmp_path):
    trace = tmp_path / "trace.csv"
    trace.write_text("timestamp\n1700000000\n1700300000\n")

    target = cli.run("experiment", "recommend", str(trace), "--target", "Bad Name!")
    start = cli.run("experiment", "recommend", str(trace), "--start", "yesterday")

    assert (target.returncode, start.returncode) == (2, 2)
    assert "target = 'Bad Name!', must be lower-case letters" in target.stderr
    assert "--start yesterday: must be an instant" in start.stderr


def test_a_recommendation_is_printed_as_json_with_today_and_the_objective(cli: Cli, tmp_path):
    trace = tmp_path / "trace.csv"
    rows = [86_400 * day + 3600 * hour for day in range(4) for hour in range(9, 17)]
    trace.write_text("timestamp,service_s\n" + "\n".join(f"{row},4" for row in rows) + "\n")
    today = tmp_path / "today.yaml"
    today.write_text(yaml.safe_dump(scaled_object(cron())))

    ran = cli.run(
        "experiment", "recommend", str(trace), "--ttft-p95", "5", "--today", str(today), "--json", timeout=200
    )

    found = json.loads(ran.stdout)
    assert found["objective"] == "a p95 TTFT of at most 5 s"
    assert [arm["name"] for arm in found["arms"]][:3] == ["recommended", "today", "no pool"]
    assert found["pool"]["kind"] == "WarmPool"


def test_options_that_cannot_be_are_refused_before_anything_is_read(cli: Cli, tmp_path):
    refused = {
        ("t.csv", "--history", "w.db"): "give exactly one of a trace file, --history and --prometheus",
        (): "give exactly one of a trace file, --history and --prometheus",
        ("--history", "w.db"): "--service = '', must be NAMESPACE/NAME",
        ("--history", "w.db", "--service", "a/b", "--last", "soon"): "--last = 'soon', must be a duration",
        ("--history", "w.db", "--service", "a/b"): "w.db: there is no such file",
        ("--prometheus", "http://localhost:1", "--service", "a/b"): "does not answer",
        ("t.csv", "--cold-start-rate", "0%"): "--cold-start-rate = '0%', must be a share",
        ("t.csv", "--cold-start-rate", "1%", "--budget", "4"): "give at most one of --cold-start-rate",
        ("t.csv", "--today", "none.yaml"): "--today none.yaml: cannot be read",
        ("t.csv", "--time-zone", "Mars"): "--time-zone Mars: must be a zone",
    }
    for arguments, message in refused.items():
        ran = cli.run("experiment", "recommend", *arguments)
        assert ran.returncode == 2, ran.stderr
        assert message in ran.stderr
        assert len(ran.stderr.splitlines()) == 1
