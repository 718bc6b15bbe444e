"""Lists of file names in messages: the first few of many, grouped by what they have in common. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

_SHOWN = 6
"""Names that a message lists at most."""


def listed(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def by_reason(files: Iterable[tuple[str, str | None]]) -> Iterator[tuple[str, str]]:
    """Each reason with the names of its files, in order; files without a reason are left out.

    Args:
        files: names and reasons.
    """
    pairs = sorted((reason, name) for name, reason in files if reason is not None)
    for reason, group in itertools.groupby(pairs, lambda pair: pair[0]):
        yield reason, listed([name for _, name in group])
