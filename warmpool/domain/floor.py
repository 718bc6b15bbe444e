"""How many replicas a pool holds, and how warm: what policies propose and limits bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from warmpool.domain.counts import parse_count
from warmpool.domain.field_types import Warmth


@dataclass(frozen=True, slots=True)
class Floor:
    """Replicas held at a warmth *or warmer*, so `hot <= asleep <= standby`.

    Counting cumulatively makes the union of two floors the maximum of each number: two hot replicas and three
    in standby are three replicas of which two are hot, not five.
    """

    hot: int = 0
    asleep: int = 0
    standby: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.hot <= self.asleep <= self.standby:
            raise ValueError(f"a floor must hold 0 <= hot <= asleep <= standby, not {self!r}")

    @classmethod
    def of(cls, replicas: int, warmth: Warmth = "hot") -> Self:
        """`replicas` replicas, all of the same warmth."""
        if warmth == "hot":
            return cls(replicas, replicas, replicas)
        return cls(0, replicas if warmth == "asleep" else 0, replicas)

    @property
    def replicas(self) -> int:
        """Replicas of any warmth: Knative's min-scale."""
        return self.standby

    def __or__(self, other: Floor) -> Floor:
        """The least floor that satisfies both."""
        return Floor(
            max(self.hot, other.hot), max(self.asleep, other.asleep), max(self.standby, other.standby)
        )

    def at_most(self, replicas: int) -> Floor:
        """The same floor with at most `replicas` replicas; the least warm are dropped first."""
        return Floor(min(self.hot, replicas), min(self.asleep, replicas), min(self.standby, replicas))

    def without(self, replicas: int) -> Floor:
        """The same without so many hot replicas, which somebody else holds."""
        return Floor(
            max(0, self.hot - replicas), max(0, self.asleep - replicas), max(0, self.standby - replicas)
        )

    def no_warmer_than(self, warmth: Warmth) -> Floor:
        """The same number of replicas, none warmer than `warmth`."""
        if warmth == "hot":
            return self
        return Floor(0, self.asleep if warmth == "asleep" else 0, self.standby)

    def by_warmth(self) -> dict[Warmth, int]:
        """Replicas of each warmth, warmest first; a warmth without replicas is left out."""
        counts: dict[Warmth, int] = {
            "hot": self.hot,
            "asleep": self.asleep - self.hot,
            "standby": self.standby - self.asleep,
        }
        return {warmth: count for warmth, count in counts.items() if count}

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read what `str` writes, e.g. `1 hot + 2 standby`; None when the text is not a floor."""
        counts = {"hot": 0, "asleep": 0, "standby": 0}
        for part in text.split(" + "):
            number, _, warmth = part.partition(" ")
            count = parse_count(number)
            if count is None or warmth not in counts:
                return None
            counts[warmth] += count
        asleep = counts["hot"] + counts["asleep"]
        return cls(counts["hot"], asleep, asleep + counts["standby"])

    def __str__(self) -> str:
        return " + ".join(f"{count} {warmth}" for warmth, count in self.by_warmth().items()) or "0"


NOTHING = Floor()
