"""Lists in pages, all of them of one instant.

A page after the first shows what there was when the first was read, as on a cluster: what has changed since
is taken back with the help of the store's history. When that no longer reaches so far, the list is 410.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass

from knative.client.resources import Object
from knative.local.apiserver import errors
from knative.local.apiserver.api.watches import Selection
from knative.local.apiserver.store import HistoryExpired, Record, Store


@dataclass(frozen=True, slots=True)
class Asked:
    """Which part of a list."""

    limit: int | None = None
    token: str | None = None
    """From the page before this one."""
    version: int | None = None
    """The resourceVersion whose state is wanted; None: the newest."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the objects, and the metadata of the list."""

    records: Sequence[Record]
    metadata: Object


def read(store: Store, chosen: Selection, asked: Asked) -> Page:
    """The page that was asked for.

    Raises:
        ApiError: 400, the token can't be read; 410, what there was then is no longer known.
    """
    after, version = ("", ""), asked.version
    if asked.token is not None:
        after, version = _read_token(asked.token)
    found = _at(store, chosen, version)
    if asked.token is not None:
        found = [record for record in found if (record.key.namespace, record.key.name) > after]
    shown = store.version if version is None else version
    metadata: Object = {"resourceVersion": str(shown)}
    if asked.limit is not None and len(found) > asked.limit:
        last = found[asked.limit - 1].key
        metadata["remainingItemCount"] = len(found) - asked.limit
        metadata["continue"] = _write_token(last.namespace, last.name, shown)
        found = found[: asked.limit]
    return Page(found, metadata)


def _at(store: Store, chosen: Selection, version: int | None) -> list[Record]:
    """The objects as they were at `version`, in the order of namespace and name."""
    if version is None or version == store.version:
        now = store.list(chosen.info.resource, chosen.namespace)
        return [record for record in now if chosen.matches(record.obj)]
    try:
        changes = store.since(version)
    except HistoryExpired as problem:
        raise errors.expired(
            f"The provided continue parameter or resourceVersion is too old: {problem}. "
            "Start a new list without it."
        ) from problem
    found = {record.key: record for record in store.list(chosen.info.resource, chosen.namespace)}
    for change in reversed(changes):
        if change.before is None:
            found.pop(change.record.key, None)
        else:
            found[change.record.key] = change.before
    kept = [record for record in found.values() if chosen.has(record)]
    return sorted(kept, key=lambda record: (record.key.namespace, record.key.name))


def _write_token(namespace: str, name: str, version: int) -> str:
    return base64.urlsafe_b64encode(json.dumps([namespace, name, version]).encode()).decode()


def _read_token(token: str) -> tuple[tuple[str, str], int]:
    try:
        namespace, name, version = json.loads(base64.urlsafe_b64decode(token))
        return (str(namespace), str(name)), int(version)
    except (ValueError, TypeError) as problem:
        raise errors.bad_request("continue key is not valid") from problem
