"""`/health` and `/ping` of a model's Service, answered at the gateway.

Load balancers and load generators ask these first, and then again and again. A Service at zero is healthy:
a request would be held until it has started. Neither path wakes it or keeps it awake.
"""

from __future__ import annotations

from http import HTTPStatus

from knative.local.activator.problems import Send, start_failure
from knative.local.activator.throttler import RevisionThrottler

_PATHS = frozenset({b"/health", b"/ping"})


def is_health_check(method: str, raw_path: bytes) -> bool:
    """Whether a request asks whether the model answers."""
    return raw_path in _PATHS and method in ("GET", "HEAD")


async def answer_health_check(send: Send, throttler: RevisionThrottler) -> None:
    """200 with an empty body, as vLLM has it; 503 with the cause while replicas do not start."""
    failure = throttler.failure
    if failure is not None:
        await start_failure(failure, throttler.spec.service).send(send)
        return
    headers = [(b"content-length", b"0")]
    await send({"type": "http.response.start", "status": int(HTTPStatus.OK), "headers": headers})
    await send({"type": "http.response.body", "body": b""})
