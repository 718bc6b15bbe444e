"""Demand from a `/metrics` page in Prometheus text, as the local platform serves it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from warmpool.adapters.metric_names import NAMES, Sample, Tally
from warmpool.domain.object_key import ObjectKey
from warmpool.domain.observation import Demand
from warmpool.ports import DemandUnavailableError


class MetricsPage:
    """Reads one `/metrics` page."""

    def __init__(self, url: str, *, timeout_s: float = 5.0) -> None:
        """`url` is the page's whole URL."""
        self._url = url
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._tally = Tally()

    async def read(self, now: datetime) -> Mapping[ObjectKey, Demand]:
        """Demand by Service.

        Raises:
            DemandUnavailableError: when the page cannot be had or read.
        """
        text = await self._fetch()
        try:
            samples = list(_samples(text))
        except ValueError as wrong:
            raise DemandUnavailableError(f"{self._url} is no Prometheus text: {wrong}") from wrong
        return self._tally.demand(samples, now)

    async def _fetch(self) -> str:
        try:
            async with (
                aiohttp.ClientSession(timeout=self._timeout) as session,
                session.get(self._url) as answer,
            ):
                if answer.status != 200:
                    raise DemandUnavailableError(f"{self._url} answers with HTTP {answer.status}")
                return await answer.text()
        except (aiohttp.ClientError, TimeoutError) as problem:
            raise DemandUnavailableError(f"{self._url} does not answer: {problem!r}") from problem


def _samples(text: str) -> Iterator[Sample]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in NAMES:
                yield Sample(sample.name, sample.labels, sample.value)
