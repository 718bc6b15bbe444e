"""What a dispatcher remembers of messages between their deliveries, in bounded memory."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Generic, TypeVar

T = TypeVar("T")

CAPACITY: Final = 10_000


class Memory(Generic[T]):
    """Values by message id; the one that was not used for longest is forgotten first."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._values: OrderedDict[str, T] = OrderedDict()

    def get(self, key: str) -> T | None:
        """The value; None: never known, or forgotten."""
        return self._values.get(key)

    def put(self, key: str, value: T) -> None:
        """Remember a value in place of the one before."""
        self._values[key] = value
        self._values.move_to_end(key)
        if len(self._values) > self._capacity:
            self._values.popitem(last=False)

    def forget(self, key: str) -> None:
        """It is not needed any more."""
        self._values.pop(key, None)
