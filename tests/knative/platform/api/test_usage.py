"""What replicas use, as `kubectl top` asks for it."""

from knative.client.resources import SERVICE
from tests.knative.platform.api.programs import Program
from tests.knative.platform.api.raw import Raw
from tests.knative.platform.conftest import World, service

METRICS = "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods"


async def test_the_use_of_a_replica_can_be_read(world: World, raw: Raw, kubectl: Program):
    await world.cluster.create(SERVICE, service("a"))
    await world.ready("a")
    (pod,) = await world.ready_pods(1)
    _, many, _ = await raw("GET", f"{METRICS}?labelSelector=serving.knative.dev/service=a")
    (measured,) = many["items"]
    assert measured["metadata"]["name"] == pod["metadata"]["name"]
    (container,) = measured["containers"]
    assert container["name"] == "user-container"
    assert container["usage"]["cpu"].removesuffix("n").isdigit()
    assert int(container["usage"]["memory"].removesuffix("Ki")) > 1000
    assert (await raw("GET", f"{METRICS}?labelSelector=serving.knative.dev/service=b"))[1]["items"] == []
    assert (await raw("GET", f"{METRICS}/nope"))[1]["reason"] == "NotFound"
    assert (await raw("DELETE", METRICS))[0] == 405
    rows = [line.split() for line in (await kubectl.run("top", "pods")).splitlines()]
    assert rows[0] == ["NAME", "CPU(cores)", "MEMORY(bytes)"]
    assert rows[1][0] == pod["metadata"]["name"]
    assert rows[1][2].endswith("Mi")
