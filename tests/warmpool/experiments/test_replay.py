"""Results of replays: the file, what is fitted to them, the simulation beside them, and two beside each other."""

import re
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
import yaml

from warmpool.adapters.price_file import packaged_prices
from warmpool.experiments import calibrate as calibrating
from warmpool.experiments.compare import compare
from warmpool.experiments.errors import ExperimentError
from warmpool.experiments.experiment import ColdStartSpec, ReplicaSpec, ServiceTime, read_model
from warmpool.experiments.replay_error import compare_with_simulation
from warmpool.experiments.replay_report import ModelUsed, chain_remarks, to_html, write
from warmpool.experiments.replay_results import (
    ArmRecord,
    GpuSeconds,
    ReplayHeader,
    ReplayResults,
    RequestRecord,
    line,
    read_results,
)

BEGAN = datetime(2026, 3, 2, 12, tzinfo=UTC)
HEADER = ReplayHeader(
    "http://localhost/x", "default/x", "trace.csv", 2.0, 3, BEGAN, 4, {"autoscaling.knative.dev/window": "6s"}
)
ARM = ArmRecord(
    "pool off", None, BEGAN, 0.2, None, 30.0, None, ((2.0, 1.8),), (0.4,), GpuSeconds(28.0, 1.8), 0, True
)
RECORD = RequestRecord(
    "pool off", 0, 0.2, 0.25, 1.5, 2.25, (0.25, 0.5), True, "cold", 1.2, {"import": 1.0}, 1, 9, 3
)
ALWAYS = {"windows": [{"name": "always", "from": "00:00", "to": "24:00", "replicas": 1}]}


def warm(index, service_s, **fields):
    """A warm request whose answer took `service_s`, a fifth of it until the first token."""
    at = index * 10.0
    known = {"cold": False, "warmth": "hot", "queue_s": 0.0, "status": 200, "ttft_s": service_s / 5}
    return RequestRecord("arm", index, at, at, e2e_s=service_s, **known | fields)


def test_a_file_of_results_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "replay.jsonl"
    on = replace(ARM, arm="pool on", pool=ALWAYS, released_s=20.0, floor=1, gpu=None)
    failed = RequestRecord("pool on", 1, 0.0, 0.0, status=503, error="503 busy")
    records = [HEADER, RECORD, ARM, failed, on]
    path.write_text("".join(line(record) + "\n" for record in records))

    results = read_results(path)

    assert results == ReplayResults(HEADER, (ARM, on), (RECORD, failed))
    assert results.names == ["pool off", "pool on"]
    assert (RECORD.late_s, RECORD.answered_s) == (pytest.approx(0.05), pytest.approx(2.2))


def test_a_file_that_was_cut_off_is_read_up_to_its_last_whole_line(tmp_path):
    path = tmp_path / "replay.jsonl"
    path.write_text(f"{line(HEADER)}\n{line(RECORD)}\n{line(RECORD)[:40]}")

    assert read_results(path).requests == (RECORD,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "its first line must say so"),
        (line(RECORD) + "\n", "its first line must say so"),
        (f"{line(HEADER)}\nnonsense\n{line(RECORD)}\n", "replay.jsonl:2: is not a line"),
        (line(HEADER).replace('"version": 1', '"version": 9') + "\n", "version = 9, must be 1"),
        (f'{line(HEADER)}\n{{"kind": "arms"}}\n\n', "kind = 'arms', must be replay, request or arm"),
    ],
)
def test_another_file_is_refused_by_its_line(tmp_path, text, message):
    path = tmp_path / "replay.jsonl"
    path.write_text(text)

    with pytest.raises(ExperimentError, match=message):
        read_results(path)


# ------------------------------------------------------------------------------------------------ calibrate
def served(count=60, *, slowdown=0.0, noise=0.0, output=True, prompts=(10, 50, 200)):
    """Warm requests of a function with a known service time."""
    rng = np.random.default_rng(3)
    found = []
    for index in range(count):
        inputs, outputs, company = prompts[index % len(prompts)], 4 + index % 7, index % 4 if slowdown else 0
        longer = (1 + slowdown * company) * (1 + noise * rng.standard_normal())
        first = (0.08 + 0.001 * inputs) * longer
        whole = first + 0.02 * outputs * longer
        tokens = {"input_tokens": inputs, "output_tokens": outputs} if output else {}
        found.append(warm(index, whole, ttft_s=first, in_flight=company, **tokens))
    return found


@pytest.mark.parametrize(("slowdown", "noise"), [(0.0, 0.0), (0.15, 0.0), (0.15, 0.03)])
def test_the_service_time_of_a_function_is_found_again(slowdown, noise):
    fit = calibrating.fit_service(served(slowdown=slowdown, noise=noise))

    assert fit.service.base_seconds == pytest.approx(0.08, rel=0.1)
    assert fit.service.input_token_seconds == pytest.approx(0.001, rel=0.1)
    assert fit.service.output_token_seconds == pytest.approx(0.02, rel=0.05)
    assert (fit.slowdown or 0.0) == pytest.approx(slowdown, abs=0.02)
    assert fit.r2 > 0.98 - 2 * noise
    assert fit.median_error < 0.001 + noise


def test_what_the_measurements_cannot_tell_is_said():
    same = calibrating.fit_service(served(prompts=(20,)))
    blind = calibrating.fit_service(served(output=False))

    assert same.service.input_token_seconds == 0.0
    assert same.service.base_seconds == pytest.approx(0.1)
    assert "every prompt had the same length" in same.notes[0]
    assert same.slowdown is None
    assert "slowdown is not known" in same.notes[-1]
    assert blind.service.fixed_seconds is not None
    assert "name no generated tokens" in blind.notes[0]


def test_only_warm_and_good_requests_count():
    good = served(20)
    others = [
        warm(90, 40.0, cold=True),
        warm(91, 40.0, cold=None),
        warm(92, 40.0, error="503"),
    ]

    results = ReplayResults(HEADER, (), tuple(good + others))

    assert calibrating.calibrate_results([results]).service.requests == 20


@pytest.mark.parametrize(
    ("values", "shape"),
    [([4.0, 5.0, 4.5], "seconds"), (list(40 * np.exp(0.2 * np.sin(np.arange(30)))), "median")],
)
def test_starts_become_a_constant_or_a_log_normal(values, shape):
    fit = calibrating.fit_cold_start(values)

    assert fit.starts == len(values)
    assert getattr(fit.spec, shape) == pytest.approx(np.median(values), rel=0.1)


def test_two_kinds_of_starts_stay_as_they_were_measured_and_an_outlier_is_left_out():
    two = [5.0 + 0.01 * i for i in range(20)] + [60.0 + 0.01 * i for i in range(20)]

    assert calibrating.fit_cold_start(two).spec.measured == tuple(two)
    assert calibrating.fit_cold_start([5.0, 5.1, 5.2, 5.1, 5.0, 90.0, 5.1, 5.2]).outliers_s == (90.0,)


def test_too_few_measurements_are_refused_with_their_numbers():
    results = ReplayResults(HEADER, (ARM,), tuple(served(3)))

    with pytest.raises(ExperimentError, match="3 warm requests and 1 starts: a service time needs 10"):
        calibrating.calibrate_results([results])
    with pytest.raises(ExperimentError, match="no request says whether it was cold"):
        calibrating.calibrate_results([ReplayResults(HEADER, (), (warm(0, 1.0, cold=None),))])


def test_requests_that_shared_a_start_count_once():
    cold = {"cold": True, "warmth": "cold"}
    requests = [
        replace(warm(0, 6.0, queue_s=5.0, ttft_s=5.2, **cold), sent_s=0.0),
        replace(warm(1, 4.0, queue_s=3.0, ttft_s=3.2, **cold), sent_s=2.0),
        replace(warm(2, 8.0, queue_s=7.0, ttft_s=7.2, **cold), sent_s=100.0),
    ]

    assert calibrating.start_waits(ReplayResults(HEADER, (), tuple(requests))) == [5.0, 7.0]


def test_an_experiment_takes_what_calibrate_prints(tmp_path):
    arms = tuple(replace(ARM, starts=((1.0, seconds),)) for seconds in (4.0, 4.2, 4.4, 4.1, 4.3))
    cold = replace(RECORD, index=99, phases={"import": 2.0, "weights": 1.0})
    found = calibrating.calibrate_results([ReplayResults(HEADER, arms, (*served(slowdown=0.1), cold))])
    path = tmp_path / "calibration.yaml"
    lines = calibrating.comments(found)
    path.write_text("".join(f"# {text}\n" for text in lines) + yaml.safe_dump(found.to_spec()))

    service, replica = read_model(path)

    assert service == found.service.service
    assert replica.cold_start == found.cold_start.spec
    assert (replica.concurrency, replica.slowdown) == (4, pytest.approx(0.1, abs=0.01))
    assert replica.stop_seconds == 0.4
    assert "60 warm requests" in lines[0]
    assert "5 starts, median 4.20 s" in lines[1]
    assert "import 2.00 s" in lines[2]
    path.write_text("arms: []")
    with pytest.raises(ExperimentError, match="must have `service`, `replica`, or both"):
        read_model(path)
    path.write_text("replica: {coldStart: {seconds: -1}}")
    with pytest.raises(ExperimentError, match=r"replica\.coldStart\.seconds = -1"):
        read_model(path)


# ------------------------------------------------------------------------------------- simulated beside live
SERVICE = ServiceTime(base_seconds=0.1, input_token_seconds=0.001, output_token_seconds=0.02)
REPLICA = ReplicaSpec(cold_start=ColdStartSpec(seconds=8.0), hourly=3600.0)


def replayed(*, pool=None, sent=(0.5, 1.0, 9.0, 60.0), cold=(True, True, False, True), gpu_s=60.0):
    """A replay of a function that starts in eight seconds and answers in 0.4."""
    ready, last = 8.5, 68.0
    records = []
    for index, (at, is_cold) in enumerate(zip(sent, cold, strict=True)):
        wait = (ready if at < ready else last) - at if is_cold else 0.0
        records.append(
            RequestRecord(
                "arm",
                index,
                at,
                at,
                wait + 0.2,
                wait + 0.4,
                (0.02,) * 9,
                is_cold,
                None,
                wait,
                {},
                0,
                100,
                10,
                200,
            )
        )
    arm = replace(
        ARM,
        arm="arm",
        pool=pool,
        first_due_s=sent[0],
        floor=1 if pool else None,
        released_s=62.0 if pool else None,
        gpu=GpuSeconds(gpu_s, 16.0, 1.6, gpu_s - 17.6),
    )
    return ReplayResults(HEADER, (arm,), tuple(records))


def test_a_pool_that_is_off_is_predicted_with_its_cold_starts_waits_and_gpu_seconds():
    (found,) = compare_with_simulation(replayed(), SERVICE, REPLICA, packaged_prices(), seeds=5)

    assert (found.cold_starts.live, found.cold_starts.simulated) == (3, 3)
    assert found.cold_rate.simulated == 0.75
    assert found.e2e_p50_s.error == pytest.approx(0.0, abs=0.02)
    assert found.e2e_p95_s.error == pytest.approx(0.0, abs=0.02)
    # Two starts of 8 s, requests until 9.4 and 68.4 s, and each time the window and the way to zero.
    assert 2 * 8 + 1 + 2 * 8 < found.gpu_s.simulated < 2 * 8 + 1 + 2 * 13
    assert found.cost == pytest.approx(60.0)
    assert found.itl_p50_s == pytest.approx(0.02)
    assert found.complete


def test_a_pool_that_was_on_is_hot_before_the_first_request_and_goes_when_it_was_released():
    results = replayed(pool=ALWAYS, sent=(10.0, 11.0, 30.0, 61.0), cold=(False,) * 4)

    (found,) = compare_with_simulation(results, SERVICE, REPLICA, packaged_prices(), seeds=5)

    assert (found.cold_starts.live, found.cold_starts.simulated) == (0, 0)
    assert found.e2e_p95_s.error == pytest.approx(0.0, abs=0.02)
    assert 62 < found.gpu_s.simulated < 62 + 14


def test_a_replica_holds_its_gpus_while_it_stops():
    slow = REPLICA.model_copy(update={"stop_seconds": 5.0})

    (at_once,), (later,) = (
        compare_with_simulation(replayed(), SERVICE, shape, packaged_prices(), seeds=3)
        for shape in (REPLICA, slow)
    )

    assert later.gpu_s.simulated == pytest.approx(at_once.gpu_s.simulated + 2 * 5.0)


def test_what_is_not_known_is_not_compared(tmp_path):
    results = replayed()
    unknown = [replace(results.requests[0], cold=None), replace(results.requests[1], error="503", e2e_s=None)]
    arm = replace(results.arms[0], gpu=None, complete=False)
    results = ReplayResults(HEADER, (arm,), (*unknown, *results.requests[2:]))

    (found,) = compare_with_simulation(results, SERVICE, REPLICA, packaged_prices(), seeds=2)
    used = ModelUsed(SERVICE, REPLICA, "somewhere <else>")
    page = to_html(HEADER, [found], used)
    files = write(tmp_path, HEADER, [found], used)

    assert (found.requests, found.failed, found.unknown) == (3, 1, 1)
    assert found.cold_starts.live is None
    assert found.cold_starts.error is None
    assert (found.gpu_s.live, found.cost) == (None, None)
    for text in ("interrupted", "1 requests failed", "1 answers do not say", "somewhere &lt;else&gt;"):
        assert text in page
    assert not re.search(r'(?:src|href)="[^#]', page)
    assert sorted(path.name for path in files) == ["replay.html", "replay.json"]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://localhost:8080/default/x/invoke", False),
        ("http://x.default.example.com/invoke", False),
        ("http://localhost:8080/default/orchestrate-support/invoke", True),
    ],
)
def test_that_only_one_stage_of_a_chain_is_simulated_is_said(url, said):
    assert bool(chain_remarks(replace(HEADER, url=url))) is said


# --------------------------------------------------------------------------------------------------- compare
def test_two_replays_are_compared_with_intervals():
    rng = np.random.default_rng(1)
    slow, fast = (
        ReplayResults(
            HEADER,
            (replace(ARM, arm="arm"),),
            tuple(warm(index, float(value)) for index, value in enumerate(mean + rng.random(80) / 10)),
        )
        for mean in (1.0, 0.5)
    )

    found = {entry.figure: entry for entry in compare(slow, fast)}
    same = {entry.figure: entry for entry in compare(slow, slow)}

    assert found["e2e_p50_s"].change == pytest.approx(-0.5, abs=0.05)
    assert found["e2e_p50_s"].high < -0.4
    assert found["e2e_p50_s"].certain
    assert not found["cold_rate"].certain
    assert (found["gpu_s"].first, found["gpu_s"].low) == (28.0, None)
    assert all(not entry.certain for entry in same.values())
    assert same["e2e_p95_s"].low <= 0 <= same["e2e_p95_s"].high


def test_replays_without_an_arm_in_common_are_refused():
    other = ReplayResults(HEADER, (), (replace(RECORD, arm="else"),))

    with pytest.raises(ExperimentError, match="no arm in common: pool off; else"):
        compare(ReplayResults(HEADER, (ARM,), (RECORD,)), other)
