"""What Revisions answer, from the metrics page of each of their ready replicas."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, Final

import aiohttp

from knative.client.cluster import Cluster
from knative.client.errors import ClusterError
from knative.labels import REVISION_LABEL
from warmpool.adapters.answer_metrics import ReplicaCounts, ReplicaTotals, add_up, parse_page
from warmpool.adapters.bounded_body import BodyTooLargeError, read_body
from warmpool.adapters.pods import pods_of, replica_url
from warmpool.domain.answers import AnswerCounts, RolloutWindow

PATH: Final = "/metrics"
_CONCURRENT: Final = 16
_LONGEST_BODY: Final = 4 * 1024 * 1024


class ReplicaAnswers:
    """Reads the pages of both Revisions' replicas and remembers where each began in a window."""

    def __init__(
        self, cluster: Cluster, *, timeout_s: float = 5.0, tls: ssl.SSLContext | None = None
    ) -> None:
        """`timeout_s` is for one page."""
        self._cluster = cluster
        self._tls = tls
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._limit = asyncio.Semaphore(_CONCURRENT)
        self._replicas: dict[RolloutWindow, dict[str, dict[str, ReplicaCounts]]] = {}

    async def read(self, window: RolloutWindow) -> tuple[Mapping[str, AnswerCounts], str]:
        """Counts by Revision since the window was read first, and why something is missing (or nothing)."""
        try:
            pods = await pods_of(self._cluster, window.service)
        except ClusterError as error:
            return {}, f"the pods of {window.service[1]} cannot be listed: {error}"
        names = {window.stable, window.canary}
        asked = [
            (pod, url)
            for pod in pods
            if _revision(pod) in names and (url := replica_url(pod, PATH)) is not None
        ]
        connector = aiohttp.TCPConnector(ssl=self._tls or True)
        async with aiohttp.ClientSession(timeout=self._timeout, connector=connector) as session:
            pages = await asyncio.gather(*(self._page(session, url) for _, url in asked))
        first = window not in self._replicas
        known = self._replicas.setdefault(window, {window.stable: {}, window.canary: {}})
        problems = []
        for (pod, _), page in zip(asked, pages, strict=True):
            if isinstance(page, str):
                problems.append(page)
                continue
            name = pod["metadata"]["name"]
            replicas = known[_revision(pod)]
            if name not in replicas:
                # One that was there before the window began has counted before; any other begins at zero.
                late = not first and _started(pod, window.since)
                replicas[name] = ReplicaCounts(ReplicaTotals() if late else page)
                if not late and page.answers:
                    replicas[name].warm = page
            replicas[name].add(page)
        counts = {
            name: add_up(part for entry in replicas.values() for part in (*entry.ended, entry.grown()))
            for name, replicas in known.items()
        }
        silent = [
            name
            for name, replicas in known.items()
            if replicas and not any(entry.latest.tells for entry in replicas.values())
        ]
        problems += [
            f"the replicas of {name} export none of the metrics that it is judged by" for name in silent
        ]
        return counts, "; ".join(problems[:3])

    def forget(self, windows: Collection[RolloutWindow]) -> None:
        """Drop what is remembered of any window that is not among these."""
        for window in [window for window in self._replicas if window not in windows]:
            del self._replicas[window]

    async def _page(self, session: aiohttp.ClientSession, url: str) -> ReplicaTotals | str:
        try:
            async with self._limit, session.get(url, allow_redirects=False) as response:
                if response.status != 200:
                    return f"{url} answers HTTP {response.status}"
                body = await read_body(response, _LONGEST_BODY)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            return f"{url} does not answer: {error!r}"
        except BodyTooLargeError as error:
            return f"{url} cannot be read: {error}"
        return await asyncio.to_thread(parse_page, body.decode("utf-8", errors="replace"))


def _revision(pod: Mapping[str, Any]) -> str:
    return str((pod["metadata"].get("labels") or {}).get(REVISION_LABEL, ""))


def _started(pod: Mapping[str, Any], since: datetime) -> bool:
    """Whether a pod was made after an instant; its timestamp has whole seconds."""
    try:
        made = datetime.fromisoformat(str(pod["metadata"].get("creationTimestamp")))
    except ValueError:
        return False
    return made >= since.replace(microsecond=0)
