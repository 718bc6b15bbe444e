"""Deletion of objects with their dependents, as the registry does it."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from knative.client.resources import CONFIG_MAP, NAMESPACE
from knative.local.apiserver import kinds
from knative.local.apiserver.deletion import DeleteOptions
from knative.local.apiserver.records import Key
from knative.local.apiserver.registry import Registry
from knative.local.apiserver.store import Store


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    store = Store(tmp_path / "db")
    store.open(asyncio.get_running_loop())
    registry = Registry(store, kinds.load(), {}, lambda: datetime(2026, 1, 1, tzinfo=UTC))
    registry.create(NAMESPACE, "", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}})
    yield registry
    await asyncio.to_thread(store.close)


def create(registry: Registry, name: str, *owners: dict[str, Any], **meta: Any) -> dict[str, Any]:
    references = [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"],
            "blockOwnerDeletion": True,
        }
        for owner in owners
    ]
    meta = {"name": name, **meta} | ({"ownerReferences": references} if references else {})
    return registry.create(
        CONFIG_MAP, "default", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta}
    ).obj


def names(registry: Registry) -> list[str]:
    return [record.key.name for record in registry.store.list(CONFIG_MAP)]


def key(name: str) -> Key:
    return Key(CONFIG_MAP, "default", name)


@pytest.mark.parametrize("propagation", ["Background", "Foreground"])
async def test_a_chain_of_owners_longer_than_the_stack_is_deleted(registry: Registry, propagation):
    owner = create(registry, "m0")
    for number in range(1, 600):
        owner = create(registry, f"m{number}", owner)
    registry.delete(key("m0"), DeleteOptions(propagation))
    assert names(registry) == []


@pytest.mark.parametrize("propagation", ["Background", "Foreground"])
async def test_owners_in_a_circle_are_deleted(registry: Registry, propagation):
    first = create(registry, "a")
    second = create(registry, "b", first)
    first["metadata"]["ownerReferences"] = [
        {"apiVersion": "v1", "kind": "ConfigMap", "name": "b", "uid": second["metadata"]["uid"]}
    ]
    registry.update(key("a"), first)
    registry.delete(key("a"), DeleteOptions(propagation))
    assert names(registry) == []


async def test_a_dependent_stays_while_one_of_its_owners_does(registry: Registry):
    first, second = create(registry, "a"), create(registry, "b")
    create(registry, "child", first, second)
    registry.delete(key("a"))
    assert names(registry) == ["b", "child"]
    registry.delete(key("b"))
    assert names(registry) == []


async def test_a_namespace_goes_when_its_last_object_does(registry: Registry):
    create(registry, "held", finalizers=["example.com/hold"])
    create(registry, "free")
    namespace = Key(NAMESPACE, "", "default")
    registry.delete(namespace)
    assert names(registry) == ["held"]
    assert registry.get(namespace).obj["status"]["phase"] == "Terminating"
    held = registry.get(key("held")).obj
    registry.update(key("held"), {**held, "metadata": {**held["metadata"], "finalizers": []}})
    assert registry.store.get(namespace) is None


async def test_garbage_of_an_interrupted_deletion_is_collected(registry: Registry):
    owner = create(registry, "owner")
    create(registry, "grandchild", create(registry, "child", owner))
    registry.store.remove(key("owner"))  # and the platform was killed
    registry.collect_garbage()
    assert names(registry) == []
