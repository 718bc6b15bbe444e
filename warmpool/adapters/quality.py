"""The quality check of a rollout: both Revisions are asked the same prompts.

They go to the replicas' own addresses, past the Service's split, and before the new Revision has its first
share: its answers to users are counted from then on, and these prompts are not among them.
"""

from __future__ import annotations

import asyncio
import json
import random
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import aiohttp

from knative.client.cluster import Cluster
from knative.client.errors import ClusterError
from knative.labels import REVISION_LABEL
from warmpool.adapters.bounded_body import BodyTooLargeError, read_body
from warmpool.adapters.pods import pods_of, replica_url
from warmpool.domain.answers import RolloutWindow
from warmpool.domain.proportions import Proportion
from warmpool.domain.rollout import QualityCheck, QualityPrompt

_CONCURRENT: Final = 2
"""Prompts that one Revision is asked at a time: its users are served meanwhile."""
_LONGEST_BODY: Final = 1024 * 1024


ROLLOUT_KEY_FILE: Final = "PILOTLIGHT_ROLLOUT_KEY_FILE"
"""Names the file with the key that the checks call stages with."""


def read_key(file: str | Path | None) -> str | None:
    """The key in a file; None without one.

    Raises:
        OSError: the file cannot be read.
    """
    return Path(file).read_text(encoding="ascii").strip() if file else None


class QualityUnavailableError(Exception):
    """The check could not be made; the message says why."""


class ReplicaQuality:
    """Asks the replicas of both Revisions."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        key: str | None = None,
        timeout_s: float = 120.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`key` is sent as a bearer token; `timeout_s` is for one answer, `tls` for replicas with TLS."""
        self._cluster = cluster
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._tls = tls

    async def ask(
        self, window: RolloutWindow, check: QualityCheck
    ) -> tuple[Mapping[str, Proportion] | None, str]:
        """Answers that are not as expected, of all, by Revision; None and why, if a Revision gives none."""
        try:
            pods = await pods_of(self._cluster, window.service)
        except ClusterError as error:
            return None, f"the quality check cannot be made: {error}"
        connector = aiohttp.TCPConnector(ssl=self._tls or True)
        async with aiohttp.ClientSession(timeout=self._timeout, connector=connector) as session:
            try:
                stable, canary = await asyncio.gather(
                    self._revision(session, pods, window.stable, check),
                    self._revision(session, pods, window.canary, check),
                )
            except QualityUnavailableError as problem:
                return None, str(problem)
        return {window.stable: stable, window.canary: canary}, ""

    async def _revision(
        self,
        session: aiohttp.ClientSession,
        pods: Sequence[Mapping[str, Any]],
        name: str,
        check: QualityCheck,
    ) -> Proportion:
        urls = [
            url
            for pod in pods
            if (pod["metadata"].get("labels") or {}).get(REVISION_LABEL) == name
            and (url := replica_url(pod, check.path))
        ]
        if not urls:
            raise QualityUnavailableError(f"the quality check waits for a ready replica of {name}")
        limit = asyncio.Semaphore(_CONCURRENT)

        async def one(prompt: QualityPrompt) -> bool:
            async with limit:
                answer = await self._answer(session, random.choice(urls), prompt.prompt)  # noqa: S311  spreads
                if answer is None or not as_expected(answer, prompt):
                    return False
                return check.judge is None or await self._judged(session, check.judge, prompt.prompt, answer)

        good = await asyncio.gather(*(one(prompt) for prompt in check.prompts))
        return Proportion(sum(not passed for passed in good), len(good))

    async def _answer(self, session: aiohttp.ClientSession, url: str, prompt: str) -> str | None:
        """The text of an answer; None for an error, which is not as expected.

        Raises:
            QualityUnavailableError: the stage asks for a key, or has no such path: no answer says anything.
        """
        found, status = await self._post(session, url, {"input": prompt}, self._headers)
        if status in {401, 403, 404, 405}:
            path = url.partition("://")[2].partition("/")[2]
            raise QualityUnavailableError(
                f"the quality check is answered HTTP {status} at /{path}: name the path, or start the "
                "controller with --rollout-key-file"
            )
        if found is None:
            return None
        try:
            value = json.loads(found)
        except ValueError:
            return found
        output = value.get("output") if isinstance(value, dict) else None
        if isinstance(output, list) and output and isinstance(output[-1], dict):
            output = output[-1].get("content")
        return output if isinstance(output, str) else found

    async def _judged(self, session: aiohttp.ClientSession, judge: str, prompt: str, answer: str) -> bool:
        """What the judge says.

        Raises:
            QualityUnavailableError: it says nothing that can be understood.
        """
        found, status = await self._post(session, judge, {"prompt": prompt, "answer": answer}, {})
        try:
            passed = json.loads(found or "")["pass"]
        except (ValueError, KeyError, TypeError):
            passed = None
        if not isinstance(passed, bool):
            raise QualityUnavailableError(
                f'the judge answers HTTP {status} without {{"pass": true}} or {{"pass": false}}'
            )
        return passed

    async def _post(
        self, session: aiohttp.ClientSession, url: str, body: object, headers: Mapping[str, str]
    ) -> tuple[str | None, int | None]:
        """The body of a successful response, and the status; None for what did not happen."""
        try:
            async with session.post(url, json=body, headers=headers, allow_redirects=False) as response:
                data = await read_body(response, _LONGEST_BODY)
                text = data.decode("utf-8", errors="replace")
                return (text if response.status == 200 else None), response.status
        except (aiohttp.ClientError, OSError, TimeoutError, BodyTooLargeError):
            return None, None


def as_expected(answer: str, prompt: QualityPrompt) -> bool:
    """Whether an answer has the properties that its prompt asks for."""
    low = answer.casefold()
    if any(text.casefold() not in low for text in prompt.contains):
        return False
    if any(text.casefold() in low for text in prompt.excludes):
        return False
    if not prompt.json_object:
        return bool(answer.strip())
    try:
        return isinstance(json.loads(answer), dict)
    except ValueError:
        return False
