"""Experiment files: what is refused, what runs, and what the report says."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import yaml

from warmpool.adapters.price_file import packaged_prices
from warmpool.experiments import report as reporting
from warmpool.experiments import run as running
from warmpool.experiments.describe import describe
from warmpool.experiments.errors import ExperimentError
from warmpool.experiments.experiment import parse_experiment, read_experiment
from warmpool.experiments.generate import Bursts, Diurnal, OnOff, Poisson, Spikes, TooLargeError, generate
from warmpool.experiments.policies import POLICIES

EXAMPLES = Path(__file__).parents[3] / "examples" / "experiments"
MONDAY = datetime(2026, 3, 2, tzinfo=UTC)


SIGNAL = {"name": "s", "query": "up", "target": {"value": 1}}


def document(**spec) -> dict:
    return {
        "apiVersion": "pilotlight.dev/v1alpha1",
        "kind": "Experiment",
        "metadata": {"name": "small"},
        "spec": {
            "trace": {"generate": {"kind": "poisson", "duration": "4h", "rate": 0.01}},
            "service": {"fixedSeconds": 3},
            "replica": {"coldStart": {"seconds": 20}},
            "objective": "5%",
            "arms": [
                {"name": "pool off", "autoscalerOnly": True},
                {"name": "always on", "fixed": 2},
                {"name": "forecast", "forecast": {"objective": {"coldStartRate": "5%"}}},
            ],
            **spec,
        },
    }


def run(**spec) -> running.ExperimentReport:
    return running.run(running.prepare(parse_experiment(document(**spec)), packaged_prices()))


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_examples_are_read_and_can_be_prepared(path):
    prepared = running.prepare(read_experiment(path), packaged_prices())

    assert len(prepared.trace) > 1000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"arms": [{"name": "a"}]},
            "spec.arms[0] must have exactly one of autoscalerOnly, fixed, pool, forecast, policy and greedyDual",
        ),
        ({"arms": [{"name": "a", "policy": "magic"}]}, "spec.arms[0].policy = 'magic', must be 'staffing', "),
        (
            {"arms": [{"name": "a", "greedyDual": True}]},
            "must have gpus, the GPUs that functions share, for arms[0]",
        ),
        (
            {"arms": [{"name": "a", "fixed": 1, "wakeAhead": True}]},
            "two stages or more for arms[0].wakeAhead",
        ),
        (
            {
                "stages": [{"name": "one"}],
                "arms": [{"name": "a", "fixed": 1, "stages": {"two": {"fixed": 1}}}],
            },
            "must have arms[0].stages among the stages (one), not 'two'",
        ),
        ({"stages": [{"name": "one"}, {"name": "one"}]}, "must have stages with names of their own, 'one'"),
        ({"gpus": 2, "nodes": {"gpus": 4, "provisioning": {"seconds": 9}}}, "at most one of gpus and nodes"),
        (
            {"gpus": 2, "replica": {"coldStart": {"seconds": 1}, "gpus": 4}},
            "must have room for a replica of arms[0]: it has 4 GPUs, there are 2",
        ),
        (
            {
                "arms": [
                    {
                        "name": "a",
                        "pool": {
                            "windows": [
                                {
                                    "name": "w",
                                    "from": "01:00",
                                    "to": "02:00",
                                    "replicas": 1,
                                    "warmth": "standby",
                                }
                            ]
                        },
                    }
                ]
            },
            "must have replica.warmth.standby.wakeSeconds: the pool of arms[0] keeps replicas standby",
        ),
        (
            {"replica": {"coldStart": {"seconds": 1}, "warmth": {"resting": "asleep"}}},
            "spec.replica.warmth must have asleep.wakeSeconds, because replicas rest asleep",
        ),
        ({"arms": []}, "spec.arms"),
        (
            {"arms": [{"name": "a", "fixed": 1}, {"name": "a", "fixed": 2}]},
            "'a' stands twice",
        ),
        ({"arms": [{"name": "a", "fixed": 0}]}, "spec.arms[0].fixed = 0, must be at least 1"),
        (
            {"arms": [{"name": "a", "forecast": {"objective": {"coldStartRate": "150%"}}}]},
            'must be a share such as "1%" or 0.01',
        ),
        ({"trace": {}}, "exactly one of file and generate"),
        ({"start": None}, "spec.start = None, must be an instant such as 2026-03-02T00:00:00Z"),
        (
            {"arms": [{"name": "a", "pool": {"signals": [SIGNAL]}}]},
            "must have a pool without signals: a trace has no metrics",
        ),
        (
            {"arms": [{"name": "a", "pool": {"signals": [{**SIGNAL, "target": {"value": "x"}}]}}]},
            "signals[0].target.value = 'x', must be a number",
        ),
        (
            {"trace": {"generate": {"kind": "poisson", "duration": "1h", "rate": -1}}},
            "spec.trace.generate.rate = -1, must be above 0",
        ),
        ({"replica": {"coldStart": {}}}, "exactly one of seconds, median and measured"),
        ({"objetive": "1%"}, "spec.objetive"),
        (
            {"arms": [{"name": "a", "pool": {"windows": [{"name": "w", "from": "25:00", "to": "26:00"}]}}]},
            "spec.arms[0].pool.windows[0].from",
        ),
    ],
)
def test_a_bad_file_names_field_value_and_what_would_be_right(change, message):
    with pytest.raises(ExperimentError) as refused:
        parse_experiment(document(**change))

    assert message in str(refused.value)


def test_a_gpu_without_a_price_is_refused_before_anything_runs():
    experiment = parse_experiment(document(replica={"coldStart": {"seconds": 1}, "gpu": "nvidia-z9"}))

    with pytest.raises(
        ExperimentError, match=r"spec\.replica\.gpu = 'nvidia-z9' has no price; must be one of"
    ):
        running.prepare(experiment, packaged_prices())


def test_a_file_that_cannot_be_used_is_named(tmp_path):
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [")

    with pytest.raises(ExperimentError, match=r"broken\.yaml: is not YAML"):
        read_experiment(broken)
    with pytest.raises(ExperimentError, match=r"missing\.yaml: cannot be read"):
        read_experiment(tmp_path / "missing.yaml")


def test_a_trace_file_is_found_beside_the_experiment(tmp_path):
    (tmp_path / "trace.csv").write_text("timestamp\n0\n5\n")
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(document(trace={"file": "trace.csv"})))

    prepared = running.prepare(read_experiment(path), packaged_prices())

    assert prepared.trace.arrivals.tolist() == [0.0, 5.0]


def test_the_report_has_every_arm_with_what_it_cost_and_saved():
    report = run()

    off, always, forecast = reporting.rows(report)
    assert off.cold_rate > 0.3
    assert max(always.cold_rate, forecast.cold_rate) < off.cold_rate
    assert always.cost == pytest.approx(always.gpu_s / 3600 * report.hourly, rel=1e-3)
    assert always.gpu_hours_saved_always_on == off.gpu_hours_saved_pool_off == 0
    assert off.gpu_hours_saved_always_on == pytest.approx((always.gpu_s - off.gpu_s) / 3600, abs=1e-3)
    assert forecast.gpu_hours_saved_pool_off == pytest.approx((off.gpu_s - forecast.gpu_s) / 3600, abs=1e-3)
    assert 0 < forecast.waste_removed_always_on < 1
    assert off.over_bound is not None
    assert off.over_bound >= 1
    assert all(row.lost == 0 for row in (off, always, forecast))
    assert reporting.best(report) in {"always on", "forecast"}


def test_the_same_experiment_gives_the_same_report():
    assert reporting.to_json(run()) == reporting.to_json(run())


def test_the_page_needs_nothing_else_and_every_file_is_written(tmp_path):
    report = run()

    files = reporting.write(report, tmp_path / "report")

    page = files[0].read_text()
    assert {file.name for file in files} >= {"report.html", "report.json", "report.csv", "frontier.png"}
    assert "http-equiv" not in page
    assert 'src="' not in page
    assert "<link" not in page
    assert page.count("<svg") == 4
    assert json.loads(files[1].read_text())["arms"][1]["arm"] == "always on"
    assert files[2].read_text().splitlines()[0].startswith("arm,requests,cold_rate")
    assert not list((tmp_path / "report").glob("*.new"))


def test_names_from_the_file_cannot_become_markup():
    report = run(arms=[{"name": "<script>x</script>", "fixed": 1}])

    assert "<script>" not in reporting.to_html(report)


def test_an_interrupted_run_keeps_the_arms_that_are_done():
    prepared = running.prepare(parse_experiment(document()), packaged_prices())

    report = running.run(prepared, progress=lambda name, _: name == "pool off")

    assert [arm.name for arm in report.arms] == ["pool off"]
    assert not report.complete


@pytest.mark.parametrize(
    "generator",
    [
        Poisson(kind="poisson", duration=timedelta(hours=2), rate=1.0),
        Diurnal(kind="diurnal", duration=timedelta(days=7), peak=0.2),
        Bursts(kind="bursts", duration=timedelta(hours=4), rate=0.5, variation=3.0),
        OnOff(
            kind="on-off",
            duration=timedelta(hours=4),
            rate=1.0,
            on=timedelta(minutes=5),
            off=timedelta(minutes=5),
        ),
        Spikes(
            kind="spikes",
            duration=timedelta(hours=2),
            rate=0.1,
            spikes=3,
            height=5.0,
            length=timedelta(seconds=30),
        ),
    ],
    ids=lambda generator: generator.kind,
)
def test_a_generated_trace_is_the_same_for_the_same_seed(generator):
    first, again, other = (generate(generator, MONDAY, seed) for seed in (1, 1, 2))

    assert first.arrivals.tobytes() == again.arrivals.tobytes() != other.arrivals.tobytes()
    assert len(first) > 100
    assert first.start is not None
    assert first.start >= MONDAY


def test_a_generator_that_would_fill_the_memory_is_refused():
    with pytest.raises(TooLargeError, match="about 86,400,000 requests, must be at most 20,000,000"):
        generate(Poisson(kind="poisson", duration=timedelta(days=1), rate=1000.0), MONDAY, 0)


def test_a_trace_is_described_by_its_rate_bursts_and_rhythm():
    steady = generate(Poisson(kind="poisson", duration=timedelta(hours=8), rate=1.0), MONDAY, 3)
    daily = generate(Diurnal(kind="diurnal", duration=timedelta(days=14), peak=0.05, weekend=1.0), MONDAY, 3)

    even = describe(steady, np.full(len(steady), 2.0))
    rhythm = describe(daily, np.full(len(daily), 2.0))

    assert even.rate == pytest.approx(1.0, rel=0.03)
    assert even.gap_variation == pytest.approx(1.0, abs=0.05)
    assert even.dispersion == pytest.approx(1.0, abs=0.25)
    assert even.load == pytest.approx(2.0, rel=0.05)
    assert even.concurrency[0] in {1, 2}
    assert even.autocorrelation[86_400] is None
    assert rhythm.autocorrelation[86_400] > 0.5


AGENT = {
    "stages": [
        {
            "name": "ingest",
            "service": {"fixedSeconds": 0.2},
            "replica": {"coldStart": {"seconds": 3}, "gpus": 0},
        },
        {"name": "generate"},
    ],
    "arms": [
        {"name": "pool off", "autoscalerOnly": True},
        {"name": "ahead", "autoscalerOnly": True, "wakeAhead": True},
        {"name": "generate hot", "autoscalerOnly": True, "stages": {"generate": {"fixed": 1}}},
    ],
}


def test_an_agent_is_reported_whole_and_by_stage():
    report = run(**AGENT)

    off, ahead, hot = report.arms
    assert [stage.name for stage in off.stages] == ["ingest", "generate"]
    assert off.stages[0].gpu_s == 0
    assert off.stages[1].busy_gpu_s == pytest.approx(3.0 * report.requests)
    assert ahead.result.waited_s.mean() < off.result.waited_s.mean() - 1
    assert not hot.stages[1].cold[5:].any()
    rows = reporting.to_json(report)["arms"]
    assert [part["name"] for part in rows[0]["stages"]] == ["ingest", "generate"]
    assert rows[0]["stages"][1]["cold_rate"] > 0.3
    assert "By stage" in reporting.to_html(report)


def test_functions_of_a_trace_have_replicas_of_their_own(tmp_path):
    lines = [f"{index * 40},{'often' if index % 3 else 'seldom'}" for index in range(120)]
    trace = tmp_path / "trace.csv"
    trace.write_text("timestamp,function\n" + "\n".join(lines) + "\n")
    arms = [
        {"name": "pool off", "autoscalerOnly": True},
        {"name": "each one", "fixed": 1},
        {"name": "greedy-dual", "greedyDual": True},
    ]

    report = run(trace={"file": str(trace)}, functions="separate", gpus=2, arms=arms)

    off, fixed, greedy = report.arms
    assert {one.name: len(one.cold) for one in off.functions} == {"often": 80, "seldom": 40}
    assert greedy.result.cold_rate < off.result.cold_rate
    assert max(fixed.result.replicas[:, 1:].sum(axis=1)) <= 2
    assert report.bound_gpu_s is None
    assert [row.lost for row in reporting.rows(report)] == [0, 0, 0]
    assert "By function" in reporting.to_html(report)


def test_nodes_are_paid_for_whole():
    arms = [{"name": "pool off", "autoscalerOnly": True}]
    nodes = {"gpus": 4, "provisioning": {"seconds": 100}, "keep": "5m"}

    (plain,) = run(arms=arms).arms
    (on_nodes,) = run(arms=arms, nodes=nodes).arms

    assert on_nodes.result.unused_gpu_s > 0
    assert on_nodes.result.cost == pytest.approx(on_nodes.result.gpu_s / 3600 * on_nodes.replica.hourly)
    assert on_nodes.result.waited_s.max() > plain.result.waited_s.max() + 90


@pytest.mark.parametrize("policy", sorted(set(POLICIES) - {"hazard"}))
def test_every_policy_to_compare_with_runs_as_an_arm(policy):
    trace = {"generate": {"kind": "poisson", "duration": "3h", "rate": 0.02}}
    report = run(trace=trace, arms=[{"name": "off", "autoscalerOnly": True}, {"name": "a", "policy": policy}])

    off, compared = report.arms
    assert compared.result.lost == 0
    assert compared.result.floor_changes >= 1
    assert compared.result.cold_rate <= off.result.cold_rate


def test_warmth_is_reported_with_its_gpu_seconds():
    warmth = {"resting": "standby", "idleSeconds": 30, "standby": {"wakeSeconds": 6, "priceShare": 0.1}}
    report = run(
        replica={"coldStart": {"seconds": 20}, "warmth": warmth}, arms=[{"name": "standby", "fixed": 1}]
    )

    (row,) = reporting.rows(report)
    assert row.woke_rate > 0.3
    assert row.standby_gpu_s > row.idle_hot_gpu_s > 0
    assert row.cost < 0.5 * row.gpu_s / 3600 * report.hourly
    assert "standby" in reporting.to_html(report)
