"""What Revisions answer, from a Prometheus that scrapes their replicas.

It has counted before a controller started, so that a restart costs no analysis. What it knows is as old as
its last scrape, and a counter's first value is lost to `increase`: it suits where scrapes are frequent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from warmpool.adapters.answer_metrics import (
    HISTOGRAMS,
    REFUSALS,
    REQUESTS,
    ReplicaTotals,
    add_up,
    bound_of,
    is_error,
)
from warmpool.adapters.prometheus_api import PrometheusError, PrometheusServer
from warmpool.domain.answers import AnswerCounts, RolloutWindow

_LONGEST_RESPONSE: Final = 4 * 1024 * 1024
_SHORTEST_S: Final = 1


class PrometheusAnswers:
    """Reads one Prometheus server."""

    def __init__(self, server: PrometheusServer) -> None:
        self._server = server

    async def read(self, window: RolloutWindow) -> tuple[Mapping[str, AnswerCounts], str]:
        """Counts by Revision since the window began, and why something is missing (or nothing)."""
        seconds = max(_SHORTEST_S, round((datetime.now(UTC) - window.since).total_seconds()))
        queries = [_query(name, window, seconds) for name in (REQUESTS, REFUSALS)]
        queries += [_query(f"{name}_bucket", window, seconds) for name in HISTOGRAMS]
        try:
            async with self._server.session() as session:
                results = await asyncio.gather(
                    *(
                        self._server.query(session, "query", {"query": query}, limit=_LONGEST_RESPONSE)
                        for query in queries
                    )
                )
        except PrometheusError as problem:
            return {}, str(problem)
        requests, refusals, *histograms = (result for _, result in results)
        counts = {
            revision: add_up([_totals(revision, requests, refusals, histograms)])
            for revision in (window.stable, window.canary)
        }
        silent = [name for name, found in counts.items() if not found.answers]
        return counts, f"{self._server.name} has no requests of {', '.join(silent)} yet" if silent else ""


def _query(metric: str, window: RolloutWindow, seconds: int) -> str:
    """The growth of a counter by pod; a Deployment of Knative is called after its Revision."""
    names = "|".join(name.replace(".", "[.]") for name in (window.stable, window.canary))
    where = f'namespace="{window.service[0]}",pod=~"({names})-deployment-.+"'
    return f"sum by (pod, code, le) (increase({metric}{{{where}}}[{seconds}s]))"


def _totals(
    revision: str, requests: list[Any], refusals: list[Any], histograms: list[list[Any]]
) -> ReplicaTotals:
    answers = errors = 0.0
    for labels, value in _of(revision, requests):
        answers += value
        errors += value if is_error(labels.get("code", "")) else 0.0
    refused = [value for _, value in _of(revision, refusals)]
    found: dict[str, dict[float, float]] = {}
    for name, result in zip(HISTOGRAMS, histograms, strict=True):
        for labels, value in _of(revision, result):
            if (bound := bound_of(labels.get("le", ""))) is not None:
                buckets = found.setdefault(name, {})
                buckets[bound] = buckets.get(bound, 0.0) + value
    return ReplicaTotals(answers, errors, sum(refused) if refused else None, found)


def _of(revision: str, result: list[Any]) -> list[tuple[Mapping[str, str], float]]:
    """Labels and value of each series of one Revision."""
    found = []
    for series in result:
        try:
            labels, value = series["metric"], float(series["value"][1])
        except (KeyError, IndexError, TypeError, ValueError):
            continue
        if str(labels.get("pod", "")).startswith(f"{revision}-deployment-") and value >= 0:
            found.append((labels, value))
    return found
