"""Events of Services, Revisions and Pods, with the reasons and sources of a cluster."""

from knative.client.resources import EVENT, SERVICE
from tests.knative.platform.api.raw_http import Raw
from tests.knative.platform.conftest import LocalCluster, service, until


async def told(local: LocalCluster) -> set[tuple[str, str, str]]:
    """Kind, reason and source of all Events."""
    return {
        (item["involvedObject"]["kind"], item["reason"], item["source"]["component"])
        for item in await local.cluster.list(EVENT, "default")
        if item["involvedObject"]["name"].startswith("told")
    }


async def test_events_record_how_a_service_starts_and_ends(local: LocalCluster):
    await local.cluster.create(SERVICE, service("told"))
    await local.ready("told")
    (pod,) = await local.ready_pods(1)
    started = {
        ("Service", "Created", "service-controller"),
        ("Configuration", "Created", "configuration-controller"),
        ("Configuration", "ConfigurationReady", "configuration-controller"),
        ("Configuration", "LatestReadyUpdate", "configuration-controller"),
        ("Revision", "RevisionReady", "revision-controller"),
        ("Pod", "Scheduled", "default-scheduler"),
        ("Pod", "Created", "kubelet"),
        ("Pod", "Started", "kubelet"),
    }

    async def complete() -> bool:
        return started <= await told(local)

    await until(complete)
    about = f"involvedObject.name={pod['metadata']['name']},involvedObject.kind=Pod,reason=Scheduled"
    (scheduled,) = await local.cluster.list(EVENT, "default", field_selector=about)
    assert scheduled["message"] == f"Successfully assigned default/{pod['metadata']['name']} to localhost"
    await local.cluster.delete(SERVICE, "told", "default")

    async def killing() -> bool:
        return ("Pod", "Killing", "kubelet") in await told(local)

    await until(killing)


async def test_a_failure_is_a_warning_event(local: LocalCluster):
    await local.cluster.create(SERVICE, service("told-bad", env={"EXIT_CODE": "3"}))

    async def warned():
        found = await local.cluster.list(EVENT, "default", field_selector="reason=LatestCreatedFailed")
        return [item for item in found if item["involvedObject"]["name"] == "told-bad"]

    (warning,) = await until(warned)
    assert (warning["type"], warning["message"]) == (
        "Warning",
        'Latest created revision "told-bad-00001" has failed',
    )


async def test_the_table_of_events_shows_objects_instead_of_names(local: LocalCluster, raw: Raw):
    await local.cluster.create(SERVICE, service("told"))
    await local.ready("told")
    accept = "application/json;as=Table;v=v1;g=meta.k8s.io"
    _, table, _ = await raw("GET", "/api/v1/namespaces/default/events", accept=accept)
    shown = [column["name"] for column in table["columnDefinitions"] if not column["priority"]]
    assert shown == ["Last Seen", "Type", "Reason", "Object", "Message"]
