"""What the demo makes of its own measurements: a month, priced."""

from dataclasses import replace
from pathlib import Path

import pytest

from pilotlight.agent_reader import load_agent
from pilotlight.demo.arms import ArmMeasurement, GpuSeconds, Request
from pilotlight.demo.month import price_a_month
from pilotlight.demo.report import DemoReport, Price

AGENT = load_agent(Path(__file__).parents[2] / "examples" / "support" / "agent.yaml")


def report(*, cold: bool) -> DemoReport:
    """Ten requests of half a second in each arm; the first of them waited ten seconds, if any did."""
    warm = tuple(
        Request(f"r{i}", at_s=2.0 * i, ttft_s=0.1, e2e_s=0.4 if i % 2 else 0.6, tokens=48) for i in range(10)
    )
    first = replace(warm[0], ttft_s=10.1, e2e_s=10.5, cold=True, phases={"import": 6.0})
    failed = Request("failed", 30.0, error="503")
    arms = [
        ArmMeasurement(name, requests, (), GpuSeconds(5, 30, 10), 60.0, None)
        for name, requests in (("pool_off", (first, *warm[1:], failed) if cold else warm), ("pool_on", warm))
    ]
    return DemoReport({}, 1, arms, Price("nvidia-l4", 0.8, "USD", "test"))


def test_a_month_rests_on_the_wait_of_a_cold_start_and_on_warm_requests(tmp_path):
    month = price_a_month(report(cold=True), AGENT, tmp_path)

    assert month is not None
    assert month.cold_start_s == pytest.approx(10.0)
    assert month.service_s == pytest.approx(0.5, abs=0.01)
    rows = {row.name: row for row in month.rows}
    assert rows["always on"].cost == pytest.approx(30 * 24 * 0.8, rel=0.02)
    assert rows["pool off"].cold_starts > rows["always on"].cold_starts


def test_without_a_cold_start_there_is_nothing_to_go_by(tmp_path):
    assert price_a_month(report(cold=False), AGENT, tmp_path) is None
    assert not list(tmp_path.iterdir())
