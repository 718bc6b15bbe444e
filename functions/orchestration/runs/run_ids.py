"""Ids of runs: nobody can guess one, and they sort by when they were made."""

from __future__ import annotations

import base64
import secrets
import time

from functions.orchestration.runs.values import RUN_ID_PREFIX

_LETTERS = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", "0123456789abcdefghijklmnopqrstuv")
"""Base 32 whose letters sort as the bytes do (RFC 4648, section 7)."""


def new_run_id() -> str:
    """An id: 6 bytes of milliseconds since the epoch, then 14 random ones, as 32 letters and digits."""
    raw = int(time.time() * 1000).to_bytes(6, "big") + secrets.token_bytes(14)
    return RUN_ID_PREFIX + base64.b32encode(raw).decode().translate(_LETTERS)
