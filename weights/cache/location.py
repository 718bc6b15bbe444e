"""Where the cache is when nobody says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def default_cache_dir(environment: Mapping[str, str]) -> Path:
    """`$PILOTLIGHT_CACHE_DIR`, else `pilotlight` in the user's cache folder (XDG base directories)."""
    given = environment.get("PILOTLIGHT_CACHE_DIR")
    if given:
        return Path(given)
    base = environment.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "pilotlight"
