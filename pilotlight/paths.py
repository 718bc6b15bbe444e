"""Where Pilotlight keeps its files on this machine (XDG Base Directory Specification)."""

import os
from pathlib import Path


def state_dir() -> Path:
    """The platform's state: its store, kubeconfig, logs and process file."""
    return _base("XDG_STATE_HOME", ".local/state") / "pilotlight"


def cache_dir() -> Path:
    """The weights cache."""
    return _base("XDG_CACHE_HOME", ".cache") / "pilotlight"


def _base(variable: str, fallback: str) -> Path:
    value = os.environ.get(variable, "")
    # The specification: relative paths in these variables are invalid and ignored.
    return Path(value) if value.startswith("/") else Path.home() / fallback
