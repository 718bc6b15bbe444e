"""Knative's ConfigMaps: invalid ones are denied, valid ones act at once."""

import asyncio
from pathlib import Path

import pytest

from knative.autoscaling.config import AutoscalerConfig
from knative.client.errors import Invalid
from knative.client.resources import CONFIG_MAP, POD_AUTOSCALER, SERVICE
from knative.local.apiserver.records import Key
from knative.local.apiserver.store import Store
from knative.local.controllers.desired_state import revisions
from knative.local.controllers.settings import KnativeSettings
from tests.knative.platform.conftest import LocalCluster, condition, service, until

NAMESPACE = "knative-serving"


async def configure(local: LocalCluster, which: str, **settings: str) -> None:
    """Apply a ConfigMap of Knative's with these keys and no others."""
    body = {
        "metadata": {"name": f"config-{which}", "namespace": NAMESPACE},
        "data": {key.replace("_", "-"): value for key, value in settings.items()},
    }
    await local.cluster.apply(CONFIG_MAP, body)


@pytest.mark.parametrize(
    ("which", "settings", "text"),
    [
        ("autoscaler", {"stable_window": "1s"}, "stable-window = 1s, must be in [6s; 1h0m0s] range"),
        (
            "gc",
            {"retain_since_create_time": "-1h"},
            "failed to parse retain-since-create-time: must be non-negative",
        ),
        (
            "gc",
            {"max_non_active_revisions": "3"},
            "min-non-active-revisions(20) must be <= max-non-active-revisions(3)",
        ),
        (
            "defaults",
            {"revision_timeout_seconds": "601"},
            "revision-timeout-seconds (601) cannot be greater than max-revision-timeout-seconds (600)",
        ),
        (
            "defaults",
            {"revision_cpu_request": "lots"},
            (
                'failed to parse "revision-cpu-request": quantities must match the regular expression '
                "'^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
            ),
        ),
        (
            "deployment",
            {"progress_deadline": "1500ms"},
            "progress-deadline must be rounded to a whole second, was: 1.5s",
        ),
        (
            "defaults",
            {"container_concurrency": "1001"},
            "expected 0 <= 1001 <= 1000: container-concurrency",
        ),
    ],
)
async def test_an_invalid_setting_is_denied_in_knatives_words_and_changes_nothing(
    local: LocalCluster, which, settings, text
):
    await configure(local, which)
    with pytest.raises(Invalid) as refused:
        await configure(local, which, **settings)
    assert (
        'admission webhook "config.webhook.serving.knative.dev" denied the request: validation failed: '
        + text
    ) in str(refused.value)
    kept = await local.cluster.get(CONFIG_MAP, f"config-{which}", NAMESPACE)
    assert not kept.get("data")


async def test_a_config_map_of_that_name_in_another_namespace_is_not_validated(local: LocalCluster):
    meta = {"name": "config-autoscaler", "namespace": "default"}
    await local.cluster.create(CONFIG_MAP, {"metadata": meta, "data": {"stable-window": "1s"}})


async def test_the_default_min_scale_acts_at_once_and_an_annotation_overrides_it(local: LocalCluster):
    await local.cluster.create(SERVICE, service("a"))
    await local.cluster.create(SERVICE, service("b", scale={"min-scale": "1"}))
    await local.ready("a")
    await local.ready("b")
    await configure(local, "autoscaler", min_scale="2")
    await local.ready_pods(2, "a-00001")
    assert len(await local.pods("b-00001")) == 1


async def test_max_scale_limit_denies_services_and_the_default_max_scale_bounds_them(local: LocalCluster):
    await configure(local, "autoscaler", max_scale="1", max_scale_limit="3")
    for given, text in (
        ("0", "max-scale=0 (unlimited), must be less than 3"),
        ("4", "expected 1 <= 4 <= 3"),
    ):
        with pytest.raises(Invalid, match=text.replace("(", r"\(").replace(")", r"\)")):
            await local.cluster.create(SERVICE, service("a", scale={"max-scale": given}))
    await local.cluster.create(SERVICE, service("a", scale={"target": "1", "target-burst-capacity": "0"}))
    await local.ready("a")
    autoscaler = await local.cluster.get(POD_AUTOSCALER, "a-00001", "default")
    await local.set_floor("a-00001", 3)  # a floor above max-scale is bounded by it
    found = await until(lambda: local.cluster.get(POD_AUTOSCALER, "a-00001", "default"))
    assert autoscaler["status"]["desiredScale"] == found["status"]["desiredScale"] == 1


async def test_disabling_scale_to_zero_starts_what_is_at_zero(local: LocalCluster):
    await configure(local, "autoscaler", allow_zero_initial_scale="true", initial_scale="0")
    await local.cluster.create(SERVICE, service("a"))
    await local.ready("a")
    assert await local.pods() == []
    await configure(local, "autoscaler", enable_scale_to_zero="false")
    await local.ready_pods(1)


async def test_class_and_metric_are_recorded_when_the_pod_autoscaler_is_made(local: LocalCluster):
    await local.cluster.create(SERVICE, service("a"))
    await local.ready("a")
    await configure(local, "autoscaler", pod_autoscaler_class="other.example.com")
    await local.cluster.create(SERVICE, service("b"))

    async def kinds() -> list[tuple[str, str]] | None:
        found = await local.cluster.list(POD_AUTOSCALER, "default")
        marks = [obj["metadata"]["annotations"] for obj in found]
        key = "autoscaling.knative.dev/"
        return [(mark[key + "class"], mark[key + "metric"]) for mark in marks] if len(marks) == 2 else None

    assert await until(kinds) == [
        ("kpa.autoscaling.knative.dev", "concurrency"),
        ("other.example.com", ""),
    ]


async def test_config_defaults_fill_in_a_service(local: LocalCluster):
    await configure(
        local,
        "defaults",
        revision_timeout_seconds="60",
        revision_idle_timeout_seconds="20",
        revision_response_start_timeout_seconds="30",
        container_concurrency="7",
        container_name_template="{{.Name}}-main",
        enable_service_links="default",
        revision_cpu_request="250m",
        revision_memory_limit="1Gi",
    )
    made = await local.cluster.create(SERVICE, service("a"))
    spec = made["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert (spec["timeoutSeconds"], spec["idleTimeoutSeconds"], spec["responseStartTimeoutSeconds"]) == (
        60,
        20,
        30,
    )
    assert (spec["containerConcurrency"], container["name"]) == (7, "a-main")
    assert "enableServiceLinks" not in spec
    assert container["resources"] == {"requests": {"cpu": "250m"}, "limits": {"memory": "1Gi"}}
    await configure(local, "defaults", allow_container_concurrency_zero="false")
    with pytest.raises(Invalid, match="expected 1 <= 0 <= 1000"):
        await local.cluster.create(SERVICE, service("b", spec={"containerConcurrency": 0}))


async def test_a_longer_timeout_keeps_the_default_response_start_timeout(local: LocalCluster):
    made = await local.cluster.create(SERVICE, service("a", spec={"timeoutSeconds": 600}))
    assert made["spec"]["template"]["spec"]["responseStartTimeoutSeconds"] == 300


async def test_unused_revisions_are_deleted_as_soon_as_config_gc_says_so(local: LocalCluster):
    for number in ("1", "2", "3"):
        await local.cluster.apply(SERVICE, service("a", env={"N": number}))
        await local.ready("a")

    async def names() -> list[str]:
        found = await local.cluster.list(POD_AUTOSCALER, "default")
        return sorted(obj["metadata"]["name"] for obj in found)

    assert await names() == ["a-00001", "a-00002", "a-00003"]
    await configure(
        local,
        "gc",
        retain_since_create_time="disabled",
        retain_since_last_active_time="disabled",
        min_non_active_revisions="0",
        max_non_active_revisions="1",
    )

    async def one_less() -> bool:
        return await names() == ["a-00002", "a-00003"]

    await until(one_less)
    assert condition(await local.cluster.get(SERVICE, "a", "default"))["status"] == "True"


async def test_an_invalid_setting_of_an_earlier_version_keeps_the_last_valid_one(tmp_path: Path):
    store = Store(tmp_path / "db")
    store.open(asyncio.get_running_loop())
    try:
        settings, key = KnativeSettings(store), Key(CONFIG_MAP, NAMESPACE, "config-autoscaler")

        def put(**data: str) -> None:
            meta = {"name": key.name, "namespace": NAMESPACE}
            store.put(key, {"metadata": meta, "data": {k.replace("_", "-"): v for k, v in data.items()}})

        put(stable_window="1s")
        assert settings.autoscaler == AutoscalerConfig()
        put(stable_window="30s", min_scale="2")
        assert settings.autoscaler == AutoscalerConfig(stable_window_s=30, min_scale=2)
        put(stable_window="90s", min_scale="x")
        assert settings.autoscaler == AutoscalerConfig(stable_window_s=30, min_scale=2)
        store.remove(key)
        assert settings.autoscaler == AutoscalerConfig()
    finally:
        await asyncio.to_thread(store.close)


@pytest.mark.parametrize(
    ("given", "marks", "seconds"),
    [
        ({}, {}, 600),
        ({"progressDeadline": "90s"}, {}, 90),
        ({"progressDeadline": "90s", "progress-deadline": "20m"}, {}, 1200),
        ({"progress-deadline": "20m"}, {"serving.knative.dev/progress-deadline": "30s"}, 30),
    ],
)
def test_the_progress_deadline_is_that_of_the_annotation_or_of_the_setting(given, marks, seconds):
    revision = {
        "metadata": {"name": "a-00001", "namespace": "default", "annotations": marks},
        "spec": {"containers": [{"image": "x"}]},
    }
    deadline_s = revisions.parse_progress_deadline(given)
    assert revisions.routing_spec(revision, {}, deadline_s=deadline_s).progress_deadline_s == seconds
