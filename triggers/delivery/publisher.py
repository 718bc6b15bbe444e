"""Publishes replies and dead letters, and says whether the queue took them."""

from __future__ import annotations

import asyncio
from typing import Literal

from triggers.delivery.health import Health
from triggers.delivery.loans import pauses
from triggers.messages import OutgoingMessage
from triggers.sources.base import (
    BrokerError,
    BrokerMisconfiguredError,
    Destination,
    MessageRefusedError,
)


class Publisher:
    """One destination, opened with the first message."""

    def __init__(
        self, destination: Destination, part: Literal["deadLetter", "reply"], health: Health
    ) -> None:
        self._destination = destination
        self._part = part
        self._health = health
        self._opened = False
        self._opening = asyncio.Lock()

    async def publish(self, message: OutgoingMessage) -> None:
        """Publish once.

        Raises:
            MessageRefusedError: the queue will never take this message.
            BrokerError: it does not now.
        """
        try:
            async with self._opening:
                if not self._opened:
                    await self._destination.open()
                    self._opened = True
            await self._destination.publish(message)
        except MessageRefusedError as error:
            self._health.fails(self._part, "MessageRefused", str(error))
            raise
        except BrokerError as error:
            self._opened = False
            reason = "Misconfigured" if isinstance(error, BrokerMisconfiguredError) else "Unavailable"
            self._health.fails(self._part, reason, str(error))
            raise
        self._health.works(self._part)

    async def publish_at_last(self, message: OutgoingMessage) -> None:
        """Publish, however long the queue is away.

        Raises:
            MessageRefusedError: the queue will never take this message.
        """
        for pause in pauses():
            try:
                return await self.publish(message)
            except MessageRefusedError:
                raise
            except BrokerError:
                await asyncio.sleep(pause)
        return None

    async def close(self) -> None:
        """End the connection."""
        await self._destination.close()
