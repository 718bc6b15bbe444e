"""Demand from a page of metrics in Prometheus' text format, such as the local platform serves."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from warmpool.adapters.bounded_body import BodyTooLargeError, read_body
from warmpool.adapters.metric_names import NAMES, DemandAggregator, Sample
from warmpool.domain.object_key import ObjectKey
from warmpool.domain.observation import Demand
from warmpool.ports import DemandUnavailableError

_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_SERIES = re.compile(r"(\w+)(\{.*\})?\s*(.*)")


class MetricsPage:
    """Reads the page at one URL."""

    def __init__(self, url: str, *, timeout_s: float = 5.0) -> None:
        """`url` is the page's whole URL."""
        self._url = url
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._aggregator = DemandAggregator()

    async def read(self, now: datetime) -> Mapping[ObjectKey, Demand]:
        """Demand by Service.

        Raises:
            DemandUnavailableError: there is no response, or it is not a page of metrics.
        """
        text = await self._fetch()
        try:
            samples = list(parse_samples(text))
        except ValueError as problem:
            raise DemandUnavailableError(f"{self._url} is not Prometheus text: {problem}") from problem
        return self._aggregator.demand(samples, now)

    async def _fetch(self) -> str:
        try:
            async with (
                aiohttp.ClientSession(timeout=self._timeout) as session,
                session.get(self._url) as response,
            ):
                if response.status != 200:
                    raise DemandUnavailableError(f"{self._url} returned HTTP {response.status}")
                body = await read_body(response)
        except (aiohttp.ClientError, TimeoutError) as problem:
            raise DemandUnavailableError(f"{self._url} does not answer: {problem!r}") from problem
        except BodyTooLargeError as problem:
            raise DemandUnavailableError(f"{self._url} cannot be read: {problem}") from problem
        # Bytes that are not UTF-8 spoil the one series that they stand in.
        return body.decode("utf-8", errors="replace")


def parse_samples(text: str) -> Iterator[Sample]:
    """The samples of the metrics that demand is read from, series by series.

    Raises:
        ValueError: the text is not in Prometheus' format, and none of these metrics is in it.
    """
    lines = [line for line in text.splitlines() if line.startswith(tuple(NAMES))]
    if not lines:
        for _ in text_string_to_metric_families(text):
            pass
    return _parse_lines(lines)


def _parse_lines(lines: Iterable[str]) -> Iterator[Sample]:
    for line in lines:
        try:
            parsed = [
                sample for family in text_string_to_metric_families(line + "\n") for sample in family.samples
            ]
        except ValueError:
            found = _SERIES.fullmatch(line)
            if found and found[1] in NAMES:
                yield Sample(found[1], dict(_LABEL.findall(found[2] or "")), found[3] or line)
            continue
        for sample in parsed:
            if sample.name in NAMES:
                yield Sample(sample.name, sample.labels, sample.value)
