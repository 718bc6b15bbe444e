"""Where the weights cache lies by default, and how large it may be. The only module that decides it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import platformdirs

CACHE_DIR_VARIABLE = "PILOTLIGHT_CACHE_DIR"
CACHE_QUOTA_VARIABLE = "PILOTLIGHT_CACHE_QUOTA"


def default_cache_dir(environment: Mapping[str, str]) -> Path:
    """The folder that `$PILOTLIGHT_CACHE_DIR` names, else `pilotlight` in the user's cache folder.

    The user's cache folder is `$XDG_CACHE_HOME` or `~/.cache` (XDG Base Directory Specification).
    """
    given = environment.get(CACHE_DIR_VARIABLE)
    return Path(given).expanduser() if given else platformdirs.user_cache_path("pilotlight")


def parse_cache_quota(text: str) -> int:
    """The bytes that a cache may take.

    Raises:
        ValueError: the text says what would be right.
    """
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) > 0):
        raise ValueError("must be a number of bytes above 0")
    return int(text)


def default_cache_quota(environment: Mapping[str, str]) -> int | None:
    """The bytes that `$PILOTLIGHT_CACHE_QUOTA` names; None: no limit.

    Raises:
        ValueError: it is not a number of bytes.
    """
    given = environment.get(CACHE_QUOTA_VARIABLE)
    try:
        return parse_cache_quota(given) if given else None
    except ValueError as error:
        raise ValueError(f"{CACHE_QUOTA_VARIABLE} = {given}: {error}") from None
