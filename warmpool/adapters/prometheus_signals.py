"""Readings of signals from a Prometheus server: one instant query for each, a bounded number at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import Any, Final

import aiohttp

from warmpool.adapters.metric_names import MAX_VALUE
from warmpool.adapters.prometheus_api import PrometheusError, PrometheusServer
from warmpool.domain.signals import SignalReading

_CONCURRENT: Final = 16
_LONGEST_RESPONSE: Final = 1024 * 1024
_LONGEST_PROBLEM: Final = 250
"""Characters of a problem that the status repeats."""


class PrometheusSignals:
    """Reads signals from one Prometheus server."""

    def __init__(self, server: PrometheusServer) -> None:
        self._server = server

    async def read(self, queries: Collection[str]) -> Mapping[str, SignalReading]:
        """The reading of each query; one that fails says why in its own reading and spoils no other."""
        waiting = iter(queries)
        readings: dict[str, SignalReading] = {}
        try:
            async with self._server.session() as session:

                async def work() -> None:
                    for query in waiting:
                        readings[query] = await self._one(session, query)

                await asyncio.gather(*(work() for _ in range(min(_CONCURRENT, len(queries)))))
        except PrometheusError as problem:
            return dict.fromkeys(queries, _unreadable(str(problem)))
        return readings

    async def _one(self, session: aiohttp.ClientSession, query: str) -> SignalReading:
        try:
            kind, result = await self._server.query(
                session, "query", {"query": query}, limit=_LONGEST_RESPONSE
            )
        except PrometheusError as problem:
            return _unreadable(str(problem))
        except Exception as fault:  # noqa: BLE001  whatever happens to one query, it concerns its signal alone
            return _unreadable(f"the query failed: {fault!r}")
        return _reading(kind, result)


def _reading(kind: str, result: list[Any]) -> SignalReading:
    """The one number of a result."""
    if kind == "scalar":
        pair: Any = result
    elif kind == "vector":
        if not result:
            return _unreadable("the query has no result: no such series, or none with a recent value")
        if len(result) > 1:
            return _unreadable(
                f"the query results in {len(result)} series, must be one: aggregate with avg, sum or max"
            )
        pair = result[0].get("value") if isinstance(result[0], dict) else None
    else:
        return _unreadable(f"the query results in a {kind}, must be one number")
    try:
        value = float(pair[1])
    except (TypeError, ValueError, IndexError, KeyError):
        return _unreadable("the query does not result in a number")
    if not 0 <= value <= MAX_VALUE:
        return _unreadable(f"the query results in {value:g}, must be a number from 0 to {MAX_VALUE:g}")
    return SignalReading(value)


def _unreadable(problem: str) -> SignalReading:
    return SignalReading(None, problem[:_LONGEST_PROBLEM])
