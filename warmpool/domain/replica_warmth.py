"""A running replica whose warmth can be changed."""

from __future__ import annotations

from dataclasses import dataclass

from warmpool.domain.field_types import Warmth


@dataclass(frozen=True, slots=True)
class ReplicaWarmth:
    """One replica of a Service, and how warm it stays while it serves no request."""

    name: str
    """Its pod's name."""
    url: str
    """Its endpoint for warmth."""
    warmth: Warmth
