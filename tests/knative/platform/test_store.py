"""The store: reads from memory, durable writes, history."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from knative.client.resources import CONFIG_MAP, NAMESPACE
from knative.local.apiserver.records import EventType, HistoryExpired, Key, StoreError, VersionConflict
from knative.local.apiserver.store import Store


def key(name: str = "a") -> Key:
    return Key(CONFIG_MAP, "default", name)


def obj(name: str = "a", **more):
    return {"metadata": {"name": name, "namespace": "default", **more}}


@contextlib.asynccontextmanager
async def opened(path: Path, **options) -> AsyncIterator[Store]:
    store = Store(path, **options)
    store.open(asyncio.get_running_loop())
    try:
        yield store
    finally:
        await asyncio.to_thread(store.close)


async def test_durable_objects_survive_a_restart_with_their_versions(tmp_path: Path):
    async with opened(tmp_path / "db") as store:
        store.put(key("a"), obj("a", labels={"ü": "\u2028 \" ' \\"}))
        store.put(key("b"), obj("b"))
        store.put(key("a"), obj("a", labels={"x": "2"}))
        store.remove(key("b"))
        await store.durable()
        version = store.version
    async with opened(tmp_path / "db") as store:
        assert store.version == version
        assert [(record.key.name, record.version) for record in store.list(CONFIG_MAP)] == [("a", 3)]
        assert store.get(key("a")).obj["metadata"]["labels"] == {"x": "2"}
        assert store.put(key("c"), obj("c")).version == version + 1


async def test_text_of_any_kind_survives(tmp_path: Path):
    text = "".join(map(chr, [*range(1, 40), 92, 127, 128, 0x2028, 0xD7FF, 0x1F525]))
    async with opened(tmp_path / "db") as store:
        store.put(
            key(), {**obj(), "data": {text: text, "number": 1e300, "large": 2**62, "empty": {}, "list": []}}
        )
        await store.durable()
        before = store.get(key()).obj
    async with opened(tmp_path / "db") as store:
        assert store.get(key()).obj == before


async def test_a_change_based_on_an_older_version_is_refused(tmp_path: Path):
    async with opened(tmp_path / "db") as store:
        first = store.put(key(), obj(), expect=0)
        with pytest.raises(VersionConflict):
            store.put(key(), obj(), expect=0)
        store.put(key(), obj(), expect=first.version)
        with pytest.raises(VersionConflict):
            store.put(key(), obj(), expect=first.version)


async def test_changes_can_be_read_from_any_version_in_the_history(tmp_path: Path):
    async with opened(tmp_path / "db") as store:
        store.put(key("a"), obj("a"))
        position = store.version
        store.put(key("b"), obj("b"))
        store.remove(key("a"))
        assert [(change.type, change.record.key.name) for change in store.since(position)] == [
            (EventType.ADDED, "b"),
            (EventType.DELETED, "a"),
        ]
        with pytest.raises(HistoryExpired, match="too large resource version: 4, current: 3"):
            store.since(store.version + 1)
        for number in range(5000):
            store.put(key("b"), obj("b", labels={"n": str(number)}))
        with pytest.raises(HistoryExpired):
            store.since(position)


async def test_owners_and_namespaces_are_found(tmp_path: Path):
    async with opened(tmp_path / "db") as store:
        store.put(key("child"), obj("child", ownerReferences=[{"uid": "u"}]))
        assert [record.key.name for record in store.owned("u")] == ["child"]
        store.put(key("child"), obj("child"))
        assert list(store.owned("u")) == []
        assert [record.key.name for record in store.in_namespace("default")] == ["child"]
        assert list(store.list(NAMESPACE)) == []


async def test_a_refusal_of_the_disk_undoes_changes_and_fails_who_waits(tmp_path: Path):
    async with opened(tmp_path / "db", busy_s=0.1) as store:
        kept = store.put(key("kept"), obj("kept"))
        await store.durable()
        resets = []
        store.on_reset(lambda: resets.append(store.version))
        other = sqlite3.connect(tmp_path / "db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        lost = store.put(key("lost"), obj("lost"))
        with pytest.raises(StoreError, match="cannot write the state"):
            await store.durable()
        assert store.get(key("lost")) is None
        assert store.get(key("kept")).version == kept.version
        assert len(resets) == 1
        other.execute("ROLLBACK")
        other.close()
        again = store.put(key("again"), obj("again"))
        assert again.version > lost.version  # no resourceVersion is given out twice
        await store.durable()
    async with opened(tmp_path / "db") as store:
        assert [record.key.name for record in store.list(CONFIG_MAP)] == ["again", "kept"]


async def test_the_database_is_its_owners_alone_whatever_was_there(tmp_path: Path):
    path = tmp_path / "db"
    for file in (path, tmp_path / "db-wal", tmp_path / "db-shm"):
        file.touch()
        file.chmod(0o644)
    async with opened(path) as store:
        store.put(key(), obj())
        await store.durable()
        assert {file.name: oct(file.stat().st_mode & 0o777) for file in tmp_path.iterdir()} == {
            "db": "0o600",
            "db-wal": "0o600",
            "db-shm": "0o600",
        }
