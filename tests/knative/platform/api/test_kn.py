"""kn, Knative's own client, used as against a cluster."""

from knative.client.resources import SERVICE
from tests.knative.platform.api.programs import Program
from tests.knative.platform.conftest import BACKEND, LocalCluster, service

RUNS = ("--image", "example.com/backend", "--cmd", "python", "--arg", str(BACKEND))


async def test_a_kn_session_from_create_to_delete(kn: Program):
    made = await kn.run("service", "create", "a", *RUNS, "--scale-max", "3", "--wait-timeout", "20")
    assert "Service 'a' created to latest revision 'a-00001' is available at URL:" in made
    updated = await kn.run("service", "update", "a", "--env", "A=b", "--scale-min", "1")
    assert "latest revision 'a-00002'" in updated
    split = ("--tag", "a-00001=old", "--traffic", "old=20,@latest=80")
    assert "(unchanged)" in await kn.run("service", "update", "a", *split)
    described = await kn.run("service", "describe", "a", "--verbose")
    shown = [line.split() for line in described.splitlines()]
    assert ["80%", "@latest", "(a-00002)", "[2]"] in [line[:4] for line in shown]
    assert ["20%", "a-00001", "#old", "[1]"] in [line[:4] for line in shown]
    assert ["Image:", "example.com/backend"] in shown  # not "pinned" to anything: nothing is pulled
    assert ["Scale:", "1", "...", "3"] in shown
    assert [line[:2] for line in shown if line[:1] == ["++"]] == [
        ["++", "Ready"],
        ["++", "ConfigurationsReady"],
        ["++", "RoutesReady"],
    ]
    rows = [line.split() for line in (await kn.run("revision", "list", "-s", "a")).splitlines()]
    assert rows[1][:5] == ["a-00002", "a", "80%", "2", rows[1][4]]
    assert rows[2][:5] == ["a-00001", "a", "20%", "old", "1"]
    assert "a-00002" in await kn.run("route", "describe", "a")
    await kn.run("service", "update", "a", "--untag", "old", "--traffic", "@latest=100")
    assert "a-00001" in await kn.run("revision", "delete", "--prune", "a")
    assert "No changes to apply" in await kn.run("service", "apply", "b", *RUNS, "--no-wait") + await kn.run(
        "service", "apply", "b", *RUNS
    )
    assert "Service 'b' in namespace 'default' is ready." in await kn.run("service", "wait", "b")
    await kn.run("service", "create", "c", *RUNS, "--cluster-local")
    assert await kn.run("service", "describe", "c", "-o", "url") == "http://c.default.svc.cluster.local\n"
    assert "kind: Service" in await kn.run("service", "export", "b", "-o", "yaml")
    deleted = await kn.run("service", "delete", "a", "b", "c", "--wait")
    assert deleted.count("successfully deleted") == 3
    assert "No services found." in await kn.run("service", "list")


async def test_kn_reports_an_immediate_failure(kn: Program, local: LocalCluster):
    text = await kn.run("service", "create", "bad", "--image", "x", "--wait-timeout", "20", status=1)
    assert 'Error: RevisionFailed: Revision "bad-00001" failed with message:' in text
    await local.cluster.apply(SERVICE, service("a"))
    await local.ready("a")
    text = await kn.run("service", "update", "a", "--traffic", "nope=100", "--wait-timeout", "20", status=1)
    assert 'Error: RevisionMissing: Revision "nope" referenced in traffic not found.' in text


async def test_kn_says_what_the_platform_does_not_have(kn: Program):
    text = await kn.run("broker", "list", status=1)
    assert "no or newer Knative Eventing API found on the backend" in text
    assert 'services.serving.knative.dev "nope" not found' in await kn.run(
        "service", "describe", "nope", status=1
    )
