"""What each caller uses, in the stage's metrics: requests, seconds, tokens, refusals by limit."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter

from functions.auth.caller import Caller
from functions.contract import Usage

MAX_CALLERS = 2_000
"""Callers with series of their own; the others share one, `(others)`. A key is a label: few and known."""
_OTHERS = "(others)"


class CallerMetrics:
    """Counters by caller.

    Args:
        registry: of the stage.
        stage: its name.
        agent: of the stage; empty without one.
    """

    def __init__(self, registry: CollectorRegistry, *, stage: str, agent: str) -> None:
        labels = ("stage", "agent", "key", "team")
        self._where = (stage, agent)
        self._known: set[tuple[str, str]] = set()
        self._finished: dict[tuple[str, str, int], tuple[Counter, Counter]] = {}
        """The series of requests and seconds, found once."""
        self._requests = Counter(
            "pilotlight_key_requests",
            "Requests by the key or subject that sent them, and by status.",
            (*labels, "code"),
            registry=registry,
        )
        self._seconds = Counter(
            "pilotlight_key_request_seconds",
            "Seconds from arrival to the end of the answer, summed, by key or subject.",
            labels,
            registry=registry,
        )
        self._tokens = Counter(
            "pilotlight_key_tokens",
            "Tokens by key or subject and direction.",
            (*labels, "direction"),
            registry=registry,
        )
        self._limited = Counter(
            "pilotlight_key_limited",
            "Requests refused because of a limit of their key or subject.",
            (*labels, "limit"),
            registry=registry,
        )
        self._refused = Counter(
            "pilotlight_unauthenticated_requests",
            "Requests refused for want of a valid credential, by status.",
            ("stage", "agent", "code"),
            registry=registry,
        )

    def finished(self, caller: Caller, *, code: int, seconds: float, usage: Usage | None) -> None:
        """A request of this caller was answered."""
        if not caller.name:
            return
        series = self._finished.get((caller.name, caller.team, code))
        if series is None:
            labels = self._labels(caller)
            series = self._requests.labels(*labels, str(code)), self._seconds.labels(*labels)
            if labels[2] == caller.name:  # the others are too many to keep
                self._finished[caller.name, caller.team, code] = series
        series[0].inc()
        series[1].inc(seconds)
        if usage is None:
            return
        labels = self._labels(caller)
        for direction, count in (("prompt", usage.prompt_tokens), ("completion", usage.completion_tokens)):
            if count:
                self._tokens.labels(*labels, direction).inc(count)

    def totals(self) -> list[dict[str, str | float]]:
        """What each caller has used since the replica began: `key`, `team`, `requests`, `tokens`."""
        found: dict[tuple[str, str], dict[str, str | float]] = {}
        for counter, member in ((self._requests, "requests"), (self._tokens, "tokens")):
            for metric in counter.collect():
                for sample in metric.samples:
                    if not sample.name.endswith("_total"):
                        continue
                    key, team = sample.labels["key"], sample.labels["team"]
                    empty: dict[str, str | float] = {"key": key, "team": team, "requests": 0.0, "tokens": 0.0}
                    entry = found.setdefault((key, team), empty)
                    entry[member] = float(entry[member]) + sample.value
        return list(found.values())

    def limited(self, caller: Caller, limit: str) -> None:
        """A request of this caller was refused because of a limit."""
        self._limited.labels(*self._labels(caller), limit).inc()

    def refused(self, code: int) -> None:
        """A request without a sufficient credential was refused."""
        self._refused.labels(*self._where, str(code)).inc()

    def _labels(self, caller: Caller) -> tuple[str, str, str, str]:
        who = (caller.name, caller.team)
        if who not in self._known:
            if len(self._known) >= MAX_CALLERS:
                who = (_OTHERS, "")
            else:
                self._known.add(who)
        return (*self._where, *who)
