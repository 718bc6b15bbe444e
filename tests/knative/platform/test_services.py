"""A Service becomes a Configuration, a Route, Revisions and replicas, with Knative's names and conditions."""

import asyncio

import pytest

from knative.client.errors import NotFound
from knative.client.resources import CONFIGURATION, POD_AUTOSCALER, REVISION, ROUTE, SERVICE
from tests.knative.platform.conftest import LocalCluster, condition, service, until


async def test_a_service_gets_ready_and_answers_at_all_three_urls(local: LocalCluster):
    await local.cluster.create(SERVICE, service("a"))
    ready = await local.ready("a")
    port = local.platform.gateway_url.rpartition(":")[2]
    assert ready["status"]["url"] == f"http://a.default.localhost:{port}"
    assert ready["status"]["address"]["url"] == "http://a.default.svc.cluster.local"
    for url, host in (
        (f"{local.platform.gateway_url}/default/a/", None),
        (local.platform.gateway_url, f"a.default.localhost:{port}"),
        (local.platform.gateway_url, "a.default.svc.cluster.local"),
    ):
        async with local.http.get(url, headers={"Host": host} if host else {}) as answer:
            assert (answer.status, (await answer.json())["revision"]) == (200, "a-00001")


async def test_names_generations_and_conditions_are_those_of_knative(local: LocalCluster):
    await local.cluster.create(SERVICE, service("a"))
    ready = await local.ready("a")
    assert (
        ready["status"]["latestCreatedRevisionName"]
        == ready["status"]["latestReadyRevisionName"]
        == "a-00001"
    )
    assert ready["status"]["traffic"] == [{"latestRevision": True, "percent": 100, "revisionName": "a-00001"}]
    kinds = {item["type"] for item in ready["status"]["conditions"]}
    assert kinds == {"ConfigurationsReady", "Ready", "RoutesReady"}
    revision = await local.cluster.get(REVISION, "a-00001", "default")
    labels = revision["metadata"]["labels"]
    assert labels["serving.knative.dev/configurationGeneration"] == "1"
    assert labels["serving.knative.dev/routingState"] == "active"
    assert revision["metadata"]["annotations"]["serving.knative.dev/routes"] == "a"
    assert {item["type"] for item in revision["status"]["conditions"]} == {
        "Active",
        "ContainerHealthy",
        "Ready",
        "ResourcesAvailable",
    }
    assert revision["spec"]["containerConcurrency"] == 0
    assert revision["spec"]["timeoutSeconds"] == 300
    autoscaler = await local.cluster.get(POD_AUTOSCALER, "a-00001", "default")
    assert autoscaler["spec"]["reachability"] == "Reachable"
    assert {item["type"] for item in autoscaler["status"]["conditions"]} == {
        "Active",
        "Ready",
        "SKSReady",
        "ScaleTargetInitialized",
    }


async def test_a_changed_template_makes_a_new_revision_and_the_old_one_goes_to_reserve(local: LocalCluster):
    await local.cluster.apply(SERVICE, service("a", env={"COLOUR": "red"}))
    await local.ready("a")
    await local.cluster.apply(SERVICE, service("a", env={"COLOUR": "blue"}))
    ready = await local.ready("a")
    assert ready["status"]["latestReadyRevisionName"] == "a-00002"
    status, env = await local.call("a", "/env")
    assert (status, env["COLOUR"], env["K_REVISION"]) == (200, "blue", "a-00002")

    async def reserved():
        old = await local.cluster.get(REVISION, "a-00001", "default")
        return old["metadata"]["labels"]["serving.knative.dev/routingState"] == "reserve"

    await until(reserved)
    autoscaler = await local.cluster.get(POD_AUTOSCALER, "a-00001", "default")
    assert autoscaler["spec"]["reachability"] == "Unreachable"


async def test_metadata_of_the_service_alone_makes_no_new_revision(local: LocalCluster):
    await local.cluster.create(SERVICE, service("a"))
    await local.ready("a")
    changed = await local.cluster.patch(SERVICE, "a", "default", {"metadata": {"labels": {"team": "x"}}})
    assert changed["metadata"]["generation"] == 1

    async def labelled():
        config = await local.cluster.get(CONFIGURATION, "a", "default")
        return config["metadata"]["labels"].get("team") == "x" and config

    config = await until(labelled)
    assert config["metadata"]["generation"] == 1
    assert [item["metadata"]["name"] for item in await local.cluster.list(REVISION, "default")] == ["a-00001"]


async def test_a_container_that_exits_shows_the_end_of_its_output_and_the_old_revision_serves_on(
    local: LocalCluster,
):
    await local.cluster.apply(SERVICE, service("a"))
    await local.ready("a")
    await local.cluster.apply(SERVICE, service("a", env={"EXIT_CODE": "3", "LAST_WORDS": "no model here"}))
    failed = await local.service_condition("a", "False")
    assert failed["reason"] == "RevisionFailed"
    assert 'Revision "a-00002" failed with message: Container failed with: no model here' in failed["message"]
    healthy = await local.revision_condition("a-00002", "False", "ContainerHealthy")
    assert healthy["reason"] == "ExitCode3"
    status, body = await local.call("a")
    assert (status, body["revision"]) == (200, "a-00001")


async def test_a_termination_message_stands_for_the_log_of_one_run(local: LocalCluster):
    code = (
        "import os, sys\n"
        'print(\'{"a line": "of the log"}\', flush=True)\n'
        "path = os.environ['PILOTLIGHT_TERMINATION_LOG']\n"
        "assert not os.path.exists(path)\n"
        "open(path, 'w').write('no such model')\n"
        "sys.exit(3)\n"
    )
    await local.cluster.create(SERVICE, service("a", container={"command": ["python", "-c", code]}))
    found = await local.revision_condition("a-00001", "False", "ContainerHealthy")
    assert (found["reason"], found["message"]) == ("ExitCode3", "Container failed with: no such model")

    async def restarted():
        for pod in await local.pods():
            status = pod["status"]["containerStatuses"][0]
            if status["restartCount"] >= 1:
                return status["lastState"]["terminated"]["message"]
        return None

    assert await until(restarted) == "no such model"


async def test_a_crashing_container_is_restarted_with_back_off(local: LocalCluster):
    await local.cluster.create(SERVICE, service("a", env={"EXIT_CODE": "1"}))

    async def backing_off():
        for pod in await local.pods():
            state = pod["status"]["containerStatuses"][0]
            if (
                state["restartCount"] >= 2
                and (state["state"].get("waiting") or {}).get("reason") == "CrashLoopBackOff"
            ):
                return state
        return None

    state = await until(backing_off)
    assert state["lastState"]["terminated"]["exitCode"] == 1
    assert "last words" in state["lastState"]["terminated"]["message"]


async def test_a_container_without_command_is_explained_on_the_revision(local: LocalCluster):
    body = service("a")
    del body["spec"]["template"]["spec"]["containers"][0]["command"]
    del body["spec"]["template"]["spec"]["containers"][0]["args"]
    await local.cluster.create(SERVICE, body)
    found = await local.revision_condition("a-00001", "False")
    assert found["reason"] == "NoCommand"
    assert "set command" in found["message"]
    assert "set command" in (await local.service_condition("a", "False"))["message"]


async def test_a_program_that_does_not_exist_is_named(local: LocalCluster):
    await local.cluster.create(SERVICE, service("a", container={"command": ["no-such-program"], "args": []}))
    found = await local.revision_condition("a-00001", "False")
    assert 'exec: "no-such-program": executable file not found in $PATH' in found["message"]


async def test_deleting_a_service_ends_its_replicas_and_its_url(local: LocalCluster):
    await local.cluster.create(SERVICE, service("a"))
    await local.ready("a")
    assert (await local.call("a"))[0] == 200
    await local.cluster.delete(SERVICE, "a", "default")

    async def empty():
        kinds = (CONFIGURATION, ROUTE, REVISION, POD_AUTOSCALER)
        return (
            not any([await local.cluster.list(kind, "default") for kind in kinds]) and not await local.pods()
        )

    await until(empty)
    status, _ = await local.call("a")
    assert status == 404
    with pytest.raises(NotFound):
        await local.cluster.get(SERVICE, "a", "default")


async def test_traffic_is_split_and_tags_have_urls(local: LocalCluster):
    await local.cluster.apply(SERVICE, service("a", revision="a-one"))
    await local.ready("a")
    split = [
        {"revisionName": "a-one", "percent": 50, "tag": "old"},
        {"revisionName": "a-two", "percent": 50},
        {"latestRevision": True, "percent": 0, "tag": "new"},
    ]
    await local.cluster.apply(SERVICE, service("a", revision="a-two", traffic=split))
    ready = await local.ready("a")
    urls = {item.get("tag"): item.get("url") for item in ready["status"]["traffic"]}
    port = local.platform.gateway_url.rpartition(":")[2]
    assert urls["old"] == f"http://old-a.default.localhost:{port}"
    seen = {(await local.call("a"))[1]["revision"] for _ in range(60)}
    assert seen == {"a-one", "a-two"}
    async with local.http.get(
        local.platform.gateway_url, headers={"Host": f"old-a.default.localhost:{port}"}
    ) as answer:
        assert (await answer.json())["revision"] == "a-one"


async def test_a_cluster_local_service_has_its_url_inside_of_the_cluster(local: LocalCluster):
    body = service("a", traffic=[{"latestRevision": True, "percent": 100, "tag": "now"}])
    body["metadata"]["labels"] = {"networking.knative.dev/visibility": "cluster-local"}
    await local.cluster.apply(SERVICE, body)
    status = (await local.ready("a"))["status"]
    assert status["url"] == status["address"]["url"] == "http://a.default.svc.cluster.local"
    assert status["traffic"][0]["url"] == "http://now-a.default.svc.cluster.local"
    async with local.http.get(
        local.platform.gateway_url, headers={"Host": "a.default.svc.cluster.local"}
    ) as answer:
        assert answer.status == 200


async def test_a_service_names_a_child_that_it_does_not_own(local: LocalCluster):
    theirs = service("a")
    await local.cluster.create(CONFIGURATION, {"metadata": theirs["metadata"], "spec": theirs["spec"]})
    await local.cluster.create(SERVICE, service("a"))
    found = await local.service_condition("a", "False", "ConfigurationsReady")
    assert (found["reason"], found["message"]) == (
        "NotOwned",
        'There is an existing Configuration "a" that we do not own.',
    )
    await local.cluster.delete(CONFIGURATION, "a", "default")


async def test_a_route_that_names_a_missing_revision_says_so(local: LocalCluster):
    await local.cluster.apply(SERVICE, service("a"))
    await local.ready("a")
    await local.cluster.apply(SERVICE, service("a", traffic=[{"revisionName": "a-nope", "percent": 100}]))
    failed = await local.service_condition("a", "False")
    assert failed["reason"] == "RevisionMissing"
    assert 'Revision "a-nope" referenced in traffic not found.' in failed["message"]
    assert (await local.call("a"))[0] == 200  # the traffic of before stays


async def test_a_route_and_a_configuration_work_without_a_service(local: LocalCluster):
    template = service("own")["spec"]["template"]
    meta = {"name": "own", "namespace": "default"}
    split = [
        {"configurationName": "own", "percent": 100},
        {"revisionName": "own-two", "percent": 0, "tag": "two"},
    ]
    await local.cluster.create(ROUTE, {"metadata": {**meta, "name": "route"}, "spec": {"traffic": split}})
    await local.cluster.create(CONFIGURATION, {"metadata": meta, "spec": {"template": template}})
    await local.condition_of(CONFIGURATION, "own", "True")
    missing = await local.condition_of(ROUTE, "route", "False")
    assert missing["reason"] == "RevisionMissing"
    template["metadata"]["name"] = "own-two"
    await local.cluster.apply(CONFIGURATION, {"metadata": meta, "spec": {"template": template}}, force=True)
    await local.condition_of(ROUTE, "route", "True")
    assert (await local.call("route"))[1]["revision"] == "own-two"
    await local.cluster.delete(ROUTE, "route", "default")
    await local.cluster.delete(CONFIGURATION, "own", "default")
    assert (await local.call("route"))[0] == 404


async def test_many_services_at_once_all_get_ready(local: LocalCluster):
    names = [f"s{number}" for number in range(8)]
    await asyncio.gather(*(local.cluster.create(SERVICE, service(name)) for name in names))
    for name in names:
        assert condition(await local.ready(name))["status"] == "True"


async def test_a_template_named_like_an_existing_revision_rolls_back_to_it(local: LocalCluster):
    for name, value in (("a-one", "1"), ("a-two", "2"), ("a-one", "1")):
        await local.cluster.apply(SERVICE, service("a", revision=name, env={"V": value}))
        status = (await local.ready("a"))["status"]
        assert status["latestCreatedRevisionName"] == status["latestReadyRevisionName"] == name
        assert [item["revisionName"] for item in status["traffic"]] == [name]
    assert (await local.call("a"))[1]["revision"] == "a-one"
    states = {item["metadata"]["name"]: routing_state(item) for item in await local.cluster.list(REVISION)}
    assert states == {"a-one": "active", "a-two": "reserve"}


def routing_state(obj):
    return obj["metadata"]["labels"]["serving.knative.dev/routingState"]


async def test_a_name_of_a_revision_with_another_specification_is_refused(local: LocalCluster):
    for name, value in (("a-one", "1"), ("a-two", "2")):
        await local.cluster.apply(SERVICE, service("a", revision=name, env={"V": value}))
        await local.ready("a")
    await local.cluster.apply(SERVICE, service("a", revision="a-one", env={"V": "3"}))
    failed = await local.service_condition("a", "False")
    assert failed["reason"] == "RevisionFailed"
    assert "already exists and was made from another template" in failed["message"]
    assert (await local.call("a"))[1]["revision"] == "a-two"


async def test_a_route_of_another_name_annotates_its_targets_and_retires_old_revisions(local: LocalCluster):
    meta = {"name": "config", "namespace": "default"}
    traffic = [{"configurationName": "config", "percent": 100}]
    await local.cluster.create(
        ROUTE, {"metadata": {"name": "route", "namespace": "default"}, "spec": {"traffic": traffic}}
    )
    for value in ("1", "2"):
        template = service("x", scale={"min-scale": "1"}, env={"V": value})["spec"]["template"]
        await local.cluster.apply(
            CONFIGURATION, {"metadata": meta, "spec": {"template": template}}, force=True
        )

        async def routed(value=value):
            found = await local.cluster.get(ROUTE, "route", "default")
            listed = (found.get("status") or {}).get("traffic") or [{}]
            return listed[0].get("revisionName") == f"config-0000{value}"

        await until(routed)
    annotation = "serving.knative.dev/routes"
    config = await local.cluster.get(CONFIGURATION, "config", "default")
    assert config["metadata"]["annotations"][annotation] == "route"

    async def retired():
        old = await local.cluster.get(REVISION, "config-00001", "default")
        new = await local.cluster.get(REVISION, "config-00002", "default")
        return (
            (routing_state(old), routing_state(new)) == ("reserve", "active")
            and annotation not in old["metadata"]["annotations"]
            and new["metadata"]["annotations"][annotation] == "route"
        )

    await until(retired)

    async def floor_ignored():
        found = await local.cluster.get(POD_AUTOSCALER, "config-00001", "default")
        return found["spec"].get("reachability") == "Unreachable"

    await until(floor_ignored)
    await local.cluster.delete(ROUTE, "route", "default")

    async def unrouted():
        new = await local.cluster.get(REVISION, "config-00002", "default")
        left = await local.cluster.get(CONFIGURATION, "config", "default")
        return routing_state(new) == "reserve" and annotation not in left["metadata"]["annotations"]

    await until(unrouted)
    await local.cluster.delete(CONFIGURATION, "config", "default")


async def test_a_configuration_serves_its_service_and_another_route(local: LocalCluster):
    await local.cluster.create(SERVICE, service("a"))
    await local.ready("a")
    traffic = [{"configurationName": "a", "percent": 100}]
    await local.cluster.create(
        ROUTE, {"metadata": {"name": "other", "namespace": "default"}, "spec": {"traffic": traffic}}
    )
    await local.condition_of(ROUTE, "other", "True")
    await local.cluster.patch(SERVICE, "a", "default", {"metadata": {"labels": {"x": "y"}}})

    async def both():
        found = [
            await local.cluster.get(resource, name, "default")
            for resource, name in ((CONFIGURATION, "a"), (REVISION, "a-00001"))
        ]
        named = [item["metadata"]["annotations"].get("serving.knative.dev/routes") for item in found]
        return named == ["a,other", "a,other"] and found[0]["metadata"]["labels"].get("x") == "y"

    await until(both)
    assert (await local.call("other"))[1]["revision"] == "a-00001"
    await local.cluster.delete(ROUTE, "other", "default")


async def test_a_service_that_cannot_start_answers_at_once_with_the_cause(local: LocalCluster):
    await local.cluster.create(SERVICE, service("a", env={"EXIT_CODE": "3", "LAST_WORDS": "no such model"}))

    async def failed_for_good():
        status, problem = await local.call("a")
        assert status == 503
        return problem if not problem["retryable"] else None

    problem = await until(failed_for_good)
    assert (problem["service"], problem["revision"], problem["reason"]) == ("a", "a-00001", "ExitCode3")
    assert "no such model" in problem["cause"]
    fixed = service("a")
    await local.cluster.apply(SERVICE, fixed, force=True)
    await local.ready("a")
    assert (await local.call("a"))[0] == 200


async def test_a_new_revision_that_cannot_start_leaves_the_old_one_serving(local: LocalCluster):
    await local.cluster.apply(SERVICE, service("a"))
    await local.ready("a")
    await local.cluster.apply(SERVICE, service("a", env={"EXIT_CODE": "3"}))
    await local.service_condition("a", "False")
    assert (await local.call("a"))[1]["revision"] == "a-00001"


async def test_a_service_that_waits_for_a_gpu_holds_its_requests(local: LocalCluster):
    await local.cluster.create(SERVICE, service("holder", gpus=2, scale={"min-scale": "1"}))
    await local.ready("holder")
    await local.cluster.create(SERVICE, service("a", gpus=1))
    await local.revision_condition("a-00001", "False", "ResourcesAvailable")
    asking = asyncio.create_task(local.call("a"))
    await asyncio.sleep(0.3)
    assert not asking.done()
    await local.cluster.delete(SERVICE, "holder", "default")
    assert (await asyncio.wait_for(asking, 20))[0] == 200
