"""Where the weights cache lies by default. The only module that decides it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import platformdirs

CACHE_DIR_VARIABLE = "PILOTLIGHT_CACHE_DIR"


def default_cache_dir(environment: Mapping[str, str]) -> Path:
    """The folder that `$PILOTLIGHT_CACHE_DIR` names, else `pilotlight` in the user's cache folder.

    The user's cache folder is `$XDG_CACHE_HOME` or `~/.cache` (XDG Base Directory Specification).
    """
    given = environment.get(CACHE_DIR_VARIABLE)
    return Path(given).expanduser() if given else platformdirs.user_cache_path("pilotlight")
