"""Pull requests to a JetStream consumer, handing out messages as they come.

The client's own `fetch` keeps the first message until the whole batch is there or its time is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import deque
from typing import Final

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

_MARGIN_S: Final = 2.0
"""An answer that says that a request has expired may be lost: so long after its end it counts as over."""


class PullConsumer:
    """Requests messages, and keeps those that came until they are taken."""

    def __init__(self, client: Client, stream: str, consumer: str) -> None:
        self._client = client
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._inbox = client.new_inbox()
        self._subscription: Subscription | None = None
        self._open: dict[str, list[float]] = {}
        self._numbers = 0
        self._arrived = asyncio.Event()
        self.fetched: deque[Msg] = deque()

    async def start(self) -> None:
        """Listen for answers."""
        self._subscription = await self._client.subscribe(f"{self._inbox}.*", cb=self._take)

    async def _take(self, raw: Msg) -> None:
        number = raw.subject.rsplit(".", 1)[1] if raw.subject.startswith(self._inbox) else None
        status = (raw.headers or {}).get("Status")
        if status is not None and not raw.data:
            # 404, 408, 409: this request brings nothing more. 100 is a heartbeat.
            if status != "100" and number is not None:
                self._open.pop(number, None)
        else:
            # The subject is the message's own; requests are used up in their order.
            self.fetched.append(raw)
            for key, request in self._open.items():
                request[0] -= 1
                if request[0] <= 0:
                    del self._open[key]
                break
        self._arrived.set()

    async def receive(self, limit: int, wait_s: float) -> list[Msg]:
        """What is there; if that is nothing, what comes first."""
        deadline = time.monotonic() + wait_s
        while not self.fetched:
            self._arrived.clear()
            left = deadline - time.monotonic()
            if left <= 0 or not self._client.is_connected:
                return []
            await self._request(limit, left)
            with contextlib.suppress(TimeoutError):
                # A connection that breaks wakes nobody.
                await asyncio.wait_for(self._arrived.wait(), min(left, 1.0))
        return [self.fetched.popleft() for _ in range(min(limit, len(self.fetched)))]

    async def _request(self, limit: int, wait_s: float) -> None:
        """Ask for as many as were not asked for yet."""
        now = time.monotonic()
        self._open = {key: request for key, request in self._open.items() if request[1] > now}
        wanted = limit - int(sum(request[0] for request in self._open.values()))
        if wanted <= 0:
            return
        self._numbers += 1
        key = str(self._numbers)
        expires_s = max(1.0, wait_s)
        self._open[key] = [wanted, now + expires_s + _MARGIN_S]
        body = {"batch": wanted, "expires": round(expires_s * 1e9)}
        await self._client.publish(self._subject, json.dumps(body).encode(), reply=f"{self._inbox}.{key}")

    async def stop(self) -> None:
        """Nothing more comes: the server ends the requests of a subscription that is gone."""
        if self._subscription is not None and self._client.is_connected:
            await self._subscription.unsubscribe()
