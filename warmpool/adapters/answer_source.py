"""Where a rollout's answers are counted: at the replicas themselves, or by a Prometheus if it says so."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from warmpool.adapters.answers import ReplicaAnswers
from warmpool.adapters.prometheus_answers import PrometheusAnswers
from warmpool.domain.answers import AnswerCounts, RolloutWindow
from warmpool.domain.rollout import Rollout


class Answers:
    """Both sources behind one door."""

    def __init__(self, replicas: ReplicaAnswers, prometheus: PrometheusAnswers | None = None) -> None:
        self._replicas = replicas
        self._prometheus = prometheus

    async def read(self, window: RolloutWindow, plan: Rollout) -> tuple[Mapping[str, AnswerCounts], str]:
        """Counts by Revision since the window began, and why something is missing (or nothing)."""
        if plan.source == "replicas":
            return await self._replicas.read(window)
        if self._prometheus is None:
            return {}, "source = prometheus, and this controller was told of none: start it with --prometheus"
        return await self._prometheus.read(window)

    def forget(self, windows: Collection[RolloutWindow]) -> None:
        """Drop what is remembered of any window that is not among these."""
        self._replicas.forget(windows)
