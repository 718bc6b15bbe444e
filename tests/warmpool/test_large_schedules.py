"""No valid schedule takes long to work out, and none holds up the controller's other work."""

import asyncio
import time
from datetime import UTC, datetime

import pytest

from tests.warmpool.conftest import make_controller
from warmpool.adapters.price_file import packaged_prices
from warmpool.domain.observation import Observation
from warmpool.domain.pool import WarmPoolSpec
from warmpool.explanation import explanation
from warmpool.policy import compose

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
PRICE = packaged_prices().replica("nvidia-l4", 1)
ALWAYS = {"name": "always", "from": "00:00", "to": "24:00", "replicas": 9}


def crons(count, cron, duration="2m"):
    return [
        {"name": f"w{n}", "cron": cron.replace("@", str(n % 60)), "duration": duration, "replicas": 1}
        for n in range(count)
    ]


def weekly(count):
    return [
        {"name": f"w{n}", "from": f"{n % 24:02}:{n // 2:02}", "to": "23:59", "replicas": n % 8 + 1}
        for n in range(count)
    ]


HOURLY = [*crons(10, "@ * * * *", "10m"), ALWAYS]
DATES = [f"2026-{month:02}-{day:02}" for month in range(1, 13) for day in range(1, 29, 2)]
LARGE = {
    "one that never closes": {"windows": crons(1, "* * * * *")},
    "a hundred that never close": {"windows": crons(100, "* * * * *")},
    "one that opens hourly and never changes the floor": {"windows": HOURLY},
    "the most windows by days": {"windows": [*weekly(99), ALWAYS]},
    "the most firings": {"windows": [*crons(99, "* 0-22 * * *"), ALWAYS]},
    "rare days": {"windows": crons(99, "@ 0 29 2 MON#5")},
    "many dates": {
        "windows": [ALWAYS],
        "exceptions": [{"name": f"e{n}", "dates": DATES, "replicas": 9} for n in range(11)],
    },
    "many yearly ranges": {
        "windows": [ALWAYS],
        "exceptions": [{"name": f"e{n}", "dates": ["01-01/12-31"] * 200, "replicas": 9} for n in range(10)],
    },
    "holidays": {
        "windows": [ALWAYS],
        "exceptions": [{"name": f"e{n}", "holidays": {"country": "DE"}, "replicas": 9} for n in range(100)],
    },
}


@pytest.mark.parametrize("case", LARGE)
def test_a_decision_takes_less_than_a_second_of_cpu_whatever_the_spec(case):
    spec = {
        "target": "s",
        "timeZone": "Europe/Berlin",
        "limits": {"budget": {"amount": 40_000}},
        **LARGE[case],
    }
    started = time.process_time()
    pool = WarmPoolSpec.parse(spec)
    state, decision = compose.decide(compose.initial(), Observation(pool, price=PRICE), NOW)
    assert time.process_time() - started < 1.5
    again = time.process_time()
    assert compose.decide(state, Observation(pool, price=PRICE), NOW)[1] == decision
    assert time.process_time() - again < 0.1  # what was worked out is remembered
    assert explanation({"metadata": {"namespace": "a", "name": "p"}, "spec": spec}, NOW)


def test_a_window_whose_firings_run_together_is_open_without_a_break():
    pool = WarmPoolSpec.parse({"target": "s", "timeZone": "Europe/Berlin", "windows": crons(1, "* * * * *")})
    _, decision = compose.decide(compose.initial(), Observation(pool, price=PRICE), NOW)
    assert (decision.floor.replicas, decision.until) == (1, None)  # not even when clocks are set back


async def test_working_out_a_large_schedule_leaves_the_event_loop_free(knative, cluster, clock):
    knative.service("generate")
    await knative.pool(windows=HOURLY, limits={"budget": {"amount": 40_000}})
    controller = make_controller(cluster, clock=clock)
    await controller.refresh()
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.005)
            turns += 1

    counting = asyncio.create_task(count())
    started = time.thread_time()  # of the event loop's thread alone
    await controller.tick(refresh=False)
    busy = time.thread_time() - started
    counting.cancel()
    assert knative.min_scale("generate-00001") == "9"
    assert turns > 2
    assert busy < 0.1
