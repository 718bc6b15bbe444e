"""JSON objects from untrusted files: a key that occurs twice is an error, not a silent replacement. Pure."""

from __future__ import annotations

from typing import Any


class DuplicateKeyError(Exception):
    """An object has the same key twice. The only argument is the key."""


def no_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An `object_pairs_hook` for `json.loads`.

    Raises:
        DuplicateKeyError: names the first key that occurs again.
    """
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise DuplicateKeyError(name)
            seen.add(name)
    return result
