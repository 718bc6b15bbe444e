"""What an answer, or its absence, means for the messages that were sent (pure).

| answer | meaning |
|---|---|
| 2xx | delivered; in a batch, all but the items that its body names |
| 408, 425, 5xx, no answer in time, connection lost after sending | failed: an attempt is used up |
| 429; no connection; 404, 421 or 5xx of a gateway without a replica | not tried: no attempt is used up |
| any other | rejected: the same request would be refused again |
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Final

EXCERPT: Final = 500
"""Characters of an answer that reasons and dead letters repeat."""
MAX_RETRY_AFTER_S: Final = 3600.0
"""A longer Retry-After is taken for this long."""
_RETRIED: Final = frozenset({408, 425})
_NOBODY: Final = frozenset({404, 421})
"""Of a gateway: there is no such Service."""


class Verdict(StrEnum):
    """What became of a request."""

    DELIVERED = "delivered"
    FAILED = "failed"
    """It may have been worked on; it is tried again, and counts as an attempt."""
    THROTTLED = "throttled"
    """The target has no room now. It is tried again, more slowly, and does not count."""
    UNREACHABLE = "unreachable"
    """Nobody was there to take it. It is tried again, and does not count."""
    REJECTED = "rejected"
    """The target will never take it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a request, and why."""

    verdict: Verdict
    reason: str = ""
    """One word for metrics and dead letters: `http-500`, `timeout`, `connection`."""
    detail: str = ""
    """An excerpt of the answer, or the error; one line."""
    retry_after_s: float | None = None


def outcome_of_status(
    status: int, headers: Mapping[str, str], excerpt: str, now: datetime, *, undelivered: bool = False
) -> Outcome:
    """The outcome of an answer; names of `headers` are in lower case.

    Args:
        status: of the response.
        headers: of the response.
        excerpt: the beginning of its body.
        now: for a Retry-After that is a date.
        undelivered: a gateway answered, and no replica ever saw the request.
    """
    if 200 <= status < 300:
        return Outcome(Verdict.DELIVERED)
    reason, detail = f"http-{status}", one_line(excerpt)
    wait = retry_after(headers.get("retry-after"), now)
    if status == 429:
        return Outcome(Verdict.THROTTLED, reason, detail, wait)
    if undelivered and (status in _NOBODY or status >= 500):
        return Outcome(Verdict.UNREACHABLE, reason, detail, wait)
    if status in _RETRIED or status >= 500:
        return Outcome(Verdict.FAILED, reason, detail, wait)
    return Outcome(Verdict.REJECTED, reason, detail)


def retry_after(value: str | None, now: datetime) -> float | None:
    """Seconds of a Retry-After, which is a number or a date; None for none, or one that says nothing."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return min(MAX_RETRY_AFTER_S, float(text[:10]))
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return min(MAX_RETRY_AFTER_S, max(0.0, (at - now).total_seconds()))


def failed_items(body: bytes, ids: Collection[str]) -> frozenset[str]:
    """The ids of a batch that its 2xx answer reports: `{"batchItemFailures": [{"itemIdentifier": ID}]}`.

    As with AWS Lambda, no body, null or an empty list means that all went well; a field that cannot be
    understood, or that names an id that was not sent, means that all failed.
    """
    if not body.strip():
        return frozenset()
    try:
        document = json.loads(body)
    except ValueError:
        return frozenset()
    if not isinstance(document, dict) or document.get("batchItemFailures") is None:
        return frozenset()
    failures = document["batchItemFailures"]
    if not isinstance(failures, list):
        return frozenset(ids)
    named = frozenset(str(item.get("itemIdentifier")) for item in failures if isinstance(item, dict))
    understood = all(isinstance(item, dict) for item in failures) and named <= frozenset(ids)
    return named if understood else frozenset(ids)


def one_line(text: str) -> str:
    """An excerpt of a text on one line, without control characters."""
    printable = "".join(character if character.isprintable() else " " for character in text[: 4 * EXCERPT])
    return " ".join(printable.split())[:EXCERPT]
