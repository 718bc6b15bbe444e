"""Server-side apply: who owns which field."""

import pytest

from knative.cluster import CONFIG_MAP, REVISION, SERVICE, Conflict
from tests.knative.platform.api.raw import config_map
from tests.knative.platform.conftest import World, service


async def test_apply_owns_fields_prunes_what_it_no_longer_says_and_meets_conflicts(world: World):
    cluster = world.cluster
    await cluster.apply(CONFIG_MAP, config_map(data={"a": "1", "b": "2"}), field_manager="one")
    await cluster.apply(CONFIG_MAP, config_map(data={"c": "3"}), field_manager="two")
    with pytest.raises(Conflict, match=r'conflict with "one" using v1: \.data\.a') as refused:
        await cluster.apply(CONFIG_MAP, config_map(data={"a": "9", "c": "3"}), field_manager="two")
    assert [(cause.field, cause.reason) for cause in refused.value.causes] == [
        (".data.a", "FieldManagerConflict")
    ]
    taken = await cluster.apply(
        CONFIG_MAP, config_map(data={"a": "9", "c": "3"}), field_manager="two", force=True
    )
    assert taken["data"] == {"a": "9", "b": "2", "c": "3"}
    pruned = await cluster.apply(CONFIG_MAP, config_map(data={"x": "0"}), field_manager="one")
    assert pruned["data"] == {"a": "9", "c": "3", "x": "0"}
    managers = {
        entry["manager"]: entry["fieldsV1"]["f:data"] for entry in pruned["metadata"]["managedFields"]
    }
    assert managers == {"one": {"f:x": {}}, "two": {"f:a": {}, "f:c": {}}}


async def test_apply_keeps_what_another_manager_also_says(world: World):
    cluster = world.cluster
    await cluster.apply(CONFIG_MAP, config_map(data={"a": "1"}), field_manager="one")
    await cluster.apply(CONFIG_MAP, config_map(data={"a": "1"}), field_manager="two")
    kept = await cluster.apply(CONFIG_MAP, config_map(data={"b": "1"}), field_manager="one")
    assert kept["data"] == {"a": "1", "b": "1"}


async def test_apply_merges_one_annotation_into_a_revision(world: World):
    await world.cluster.create(SERVICE, service("a", scale={"max-scale": "5"}))
    await world.ready("a")
    body = {
        "metadata": {
            "name": "a-00001",
            "namespace": "default",
            "annotations": {"autoscaling.knative.dev/min-scale": "2"},
        }
    }
    applied = await world.cluster.apply(REVISION, body, field_manager="pilotlight")
    marks = applied["metadata"]["annotations"]
    assert marks["autoscaling.knative.dev/max-scale"] == "5"
    await world.ready_pods(2)
    body["metadata"]["annotations"] = {}
    released = await world.cluster.apply(REVISION, body, field_manager="pilotlight")
    assert "autoscaling.knative.dev/min-scale" not in released["metadata"]["annotations"]
