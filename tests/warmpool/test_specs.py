"""What a WarmPool may say: valid, refused with words that help, or valid with a warning."""

from datetime import UTC, datetime

import pytest

from warmpool.domain.pool import WarmPoolSpec
from warmpool.domain.spec_errors import SpecError
from warmpool.domain.spec_warnings import spec_warnings

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
HOURS = {"from": "14:00", "to": "18:00"}


def window(**fields):
    return {"windows": [{"name": "w", "replicas": 1, **fields}]}


def exception(**fields):
    return {"exceptions": [{"name": "e", **fields}]}


def parse(spec):
    return WarmPoolSpec.parse({"target": "generate", **spec})


VALID = [
    window(**HOURS),
    window(days=["Sat-Mon"], **HOURS),
    window(dates=["2026-12-09"], **HOURS),
    window(dates=["12-24", "12-31/01-02", "2026-12-24/2027-01-01"], **{"from": "22:00", "to": "04:00"}),
    window(start="2026-12-04T20:00", end="2026-12-08T07:00"),
    window(cron="0 8 * * MON-FRI", duration="10h"),
    window(cron="* * * * *", duration="2m"),
    exception(dates=["12-24"]),
    exception(dates=["12-24"], replicas=1, **{"from": "20:00", "to": "07:00"}),
    exception(start="2026-12-04T20:00", end="2026-12-08T07:00"),
    exception(holidays={"country": "GB", "region": "SCT"}),
]


@pytest.mark.parametrize("spec", VALID)
def test_a_valid_spec_is_written_back_as_it_was_read(spec):
    parsed = parse(spec)
    assert parse({key: value for key, value in parsed.to_wire().items() if key != "target"}) == parsed


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"timeZone": "Berlin"}, "did you mean Europe/Berlin?"),
        ({"timeZone": "europe/berlin"}, "did you mean Europe/Berlin?"),
        ({"timeZone": "America/New York"}, "did you mean America/New_York?"),
        ({"timeZone": "PST"}, "did you mean America/Los_Angeles?"),
        ({"timeZone": "Nowhere"}, "spec.timeZone = 'Nowhere', must be an IANA time zone"),
        (exception(holidays={"country": "UK"}), "GB is the United Kingdom"),
        (exception(holidays={"country": "Germany"}), "did you mean DE?"),
        (exception(holidays={"country": "de"}), "did you mean DE?"),
        (
            exception(holidays={"country": "DE", "region": "XX"}),
            "must be a region of DE: one of Augsburg, BB, BE",
        ),
        (window(name=False, **HOURS), "YAML reads off, no, on and yes without quotes as true or false"),
        (window(), "spec.windows[0].from must be given"),
        (
            window(days=["Mon"], dates=["12-24"], **HOURS),
            "must be one kind of window, not one with days and dates",
        ),
        (window(cron="0 8 * * *", duration="1h", **HOURS), "spec.windows[0].from is not a field"),
        (window(dates=[], **HOURS), "spec.windows[0].dates must not be empty"),
        (window(dates=["02-30"], **HOURS), 'days of every year such as "12-24"'),
        (window(dates=["2026-02-30"], **HOURS), "must be a list of dates"),
        (window(dates=["20261224"], **HOURS), "must be a list of dates"),
        (window(dates=["2026-12-24/2026-12-20"], **HOURS), "end on or after their first day"),
        (
            window(start="2026-12-04T20:00", end="2026-12-04T20:00"),
            'must be after "start" = 2026-12-04T20:00',
        ),
        (window(start="2026-12-04T20:00"), "spec.windows[0].end must be given"),
        (window(start="2026-12-04T20:00Z", end="2026-12-05T20:00"), "without an offset"),
        (window(start="2026-12-04T24:00", end="2026-12-05T20:00"), "must be a local date and time"),
        (window(cron="0 0 30 2 *", duration="1h"), "bad day-of-month"),
        (window(cron="0 8 * *", duration="1h"), "must be five cron fields"),
        (window(cron="0 0 8 * * *", duration="1h"), "must be five cron fields"),
        (window(cron="*/20 * * * *", duration="2m"), "must open at most 48 times a day, not 72"),
        (window(cron="*/2 * * * *", duration="1m"), "must open at most 48 times a day, not 720"),
        (exception(), "must name its time: dates, holidays or both, or a start and an end"),
        (exception(start="2026-12-04T20:00", end="2026-12-08T07:00", dates=["12-24"]), "not start and dates"),
        (
            exception(dates=["12-24"], **{"from": "20:00", "to": "20:00"}),
            'must have "to" different from "from"',
        ),
        (
            {
                "windows": [
                    {"name": f"w{n}", "cron": f"{n} * * * *", "duration": "5m", "replicas": 1}
                    for n in range(11)
                ]
            },
            "open at most 240 times a day together, not 264",
        ),
        (
            {"exceptions": [{"name": f"e{n}", "dates": ["12-24"] * 366} for n in range(6)]},
            "must name at most 2000 dates and ranges in all, not 2196",
        ),
        (window(dates=["12-24"] * 367, **HOURS), "must have at most 366 entries"),
    ],
)
def test_a_mistake_is_refused_with_what_would_be_right(spec, words):
    with pytest.raises(SpecError) as refused:
        parse(spec)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"timeZone": "EST"}, ["spec.timeZone: EST has no summer time; America/New_York has"]),
        (
            {"timeZone": "Etc/GMT+5"},
            ["spec.timeZone: Etc/GMT+5 is 5 hours behind UTC: the sign of these names is reversed"],
        ),
        ({"timeZone": "America/New_York"}, []),
        (window(dates=["2026-11-01"], **HOURS), ["spec.windows[0] (w): all its dates have passed"]),
        (window(dates=["2026-11-01", "12-24"], **HOURS), []),
        (window(dates=["02-29"], **HOURS), ["spec.windows[0] (w): 02-29 is a day of leap years only"]),
        (
            window(start="2026-11-01T00:00", end="2026-11-02T00:00"),
            ["spec.windows[0] (w): ended at 2026-11-02T00:00"],
        ),
        (
            window(cron="* * * * *", duration="2m"),
            [
                (
                    "spec.windows[0] (w): its firings run together, so that it never closes on a day on which it "
                    'fires; a window from "00:00" to "24:00" says the same'
                )
            ],
        ),
        (window(cron="0 0 * * *", duration="7d"), []),
        (
            {**window(**{**HOURS, "replicas": 3}), "limits": {"max": 2}},
            ["spec.windows[0] (w): limits.max = 2 allows fewer than its 3 replicas"],
        ),
        (
            exception(dates=["12-24"], **HOURS),
            [
                (
                    "spec.exceptions[0] (e): from and to have no effect without replicas: the whole day is closed; "
                    "give replicas for the hours that stay open, or start and end for a part of a day"
                )
            ],
        ),
        (exception(dates=["12-24"], replicas=1, **HOURS), []),
        ({**window(**HOURS), **exception(dates=["12-24"], replicas=1, **HOURS)}, []),
        (
            {**window(**HOURS), **exception(dates=["12-24"], replicas=6, **HOURS)},
            [
                (
                    "spec.exceptions[0] (e): closes the windows for the rest of its days; to hold more replicas "
                    "for some hours in addition to them, use a window with dates"
                )
            ],
        ),
        (exception(dates=["2020-12-24"]), ["spec.exceptions[0] (e): all its dates have passed"]),
        (
            exception(start="2026-11-01T00:00", end="2026-11-02T00:00"),
            ["spec.exceptions[0] (e): ended at 2026-11-02T00:00"],
        ),
        (exception(holidays={"country": "DE"}), []),
    ],
)
def test_what_is_valid_and_probably_not_meant_is_a_warning(spec, words):
    assert spec_warnings(parse(spec), NOW) == words


def test_many_mistakes_are_counted_rather_than_all_named():
    with pytest.raises(SpecError) as refused:
        parse({"windows": [{"name": f"w{n}", **HOURS, "replicas": 0} for n in range(50)]})
    assert len(refused.value.problems) == 21
    assert refused.value.problems[-1] == "and 30 more"
