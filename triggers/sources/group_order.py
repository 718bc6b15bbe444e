"""Order within groups for brokers that deliver more of a group while its first message is worked on (pure).

Messages that came are held here until all earlier ones of their group are settled.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class GroupOrder(Generic[T]):
    """Deliveries in the order in which they came, lent one at a time for each group.

    `position` orders the deliveries of a group: one that comes again takes its old place.
    """

    def __init__(self, position: Callable[[T], int]) -> None:
        self._position = position
        self._waiting: OrderedDict[str, deque[T]] = OrderedDict()
        self._busy: dict[str, int] = {}

    def __len__(self) -> int:
        """Deliveries that are held and not lent."""
        return sum(map(len, self._waiting.values()))

    def add(self, group: str, delivery: T) -> None:
        """Hold a delivery; a second one of the same position replaces the first."""
        held = self._waiting.setdefault(group, deque())
        at = self._position(delivery)
        index = len(held)
        while index and self._position(held[index - 1]) >= at:
            index -= 1
        if index < len(held) and self._position(held[index]) == at:
            held[index] = delivery
        else:
            held.insert(index, delivery)
        if self._busy.get(group) == at:
            del self._busy[group]  # the one that was lent, or that waited for its retry, is here again

    def take(self, limit: int) -> list[T]:
        """Lend up to `limit` deliveries, one of each group that has none lent."""
        taken: list[T] = []
        for group in list(self._waiting):
            if len(taken) >= limit:
                break
            if group in self._busy:
                continue
            delivery = self._waiting[group].popleft()
            self._busy[group] = self._position(delivery)
            taken.append(delivery)
            if not self._waiting[group]:
                del self._waiting[group]
            else:
                self._waiting.move_to_end(group)  # every group has its turn
        return taken

    def held(self) -> list[T]:
        """Those that are not lent."""
        return [delivery for held in self._waiting.values() for delivery in held]

    def drop(self, dropped: Callable[[T], bool]) -> None:
        """Forget held deliveries that are no longer ours; those that are lent are settled as usual."""
        for group, held in list(self._waiting.items()):
            kept = deque(delivery for delivery in held if not dropped(delivery))
            if kept:
                self._waiting[group] = kept
            else:
                del self._waiting[group]
                self._busy.pop(group, None)

    def settle(self, group: str, position: int) -> None:
        """The delivery is done: the next one of its group may be lent."""
        if self._busy.get(group) == position:
            del self._busy[group]

    def clear(self) -> None:
        """Forget everything, as when the connection broke."""
        self._waiting.clear()
        self._busy.clear()
