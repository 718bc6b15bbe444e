"""The manifests fit what the controller does and what the model of a pool's spec accepts."""

import asyncio
from datetime import timedelta
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings

import knative
from knative.client.cluster import Cluster
from knative.client.errors import Invalid
from knative.client.resources import WARM_POOL
from tests.warmpool.conftest import MIN, MONDAY, OFFICE, kubeconfig, make_controller
from tests.warmpool.faulty_proxy import FaultyProxy
from tests.warmpool.test_schedule_oracle import pools
from warmpool.adapters.replicas import HttpWarmthClient
from warmpool.domain.pool import WarmPoolSpec
from warmpool.domain.schedule_exceptions import DayException, SpanException
from warmpool.domain.windows import CronWindow, DatedWindow, SpanWindow, WeeklyWindow

MANIFESTS = Path(knative.__file__).parent / "manifests"
CRD = yaml.safe_load((MANIFESTS / "crds" / "warmpool.yaml").read_text())
SCHEMA = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
WINDOW_MODELS = (WeeklyWindow, DatedWindow, CronWindow, SpanWindow)
EXCEPTION_MODELS = (DayException, SpanException)
VERBS = {"POST": "create", "PATCH": "patch", "PUT": "update", "DELETE": "delete"}


def permitted() -> set[tuple[str, str, str]]:
    """Group, resource and verb of everything that the controller's role allows."""
    documents = list(yaml.safe_load_all((MANIFESTS / "controller" / "rbac.yaml").read_text()))
    role = next(
        d for d in documents if d["kind"] == "ClusterRole" and d["metadata"]["name"].endswith("controller")
    )
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def asked(method: str, path: str, *, watch: bool) -> tuple[str, str, str]:
    """Group, resource and verb of a request, as RBAC sees it."""
    parts = path.strip("/").split("/")
    group, rest = ("", parts[2:]) if parts[0] == "api" else (parts[1], parts[3:])
    if rest[0] == "namespaces" and len(rest) > 2:
        rest = rest[2:]
    plural, name, sub = rest[0], rest[1] if len(rest) > 1 else None, rest[2] if len(rest) > 2 else None
    resource = f"{plural}/{sub}" if sub else plural
    if method == "GET":
        return group, resource, "watch" if watch else "get" if name else "list"
    return group, resource, VERBS[method]


async def test_the_role_allows_exactly_what_the_controller_does(knative, api, tmp_path, clock, cluster):
    proxy = FaultyProxy(api.port)
    await proxy.start()
    async with Cluster.from_kubeconfig(kubeconfig(tmp_path, proxy.port, "proxied")) as through:
        controller = make_controller(through, clock=clock, warmth_client=HttpWarmthClient(through, "secret"))
        knative.service("generate")
        await knative.pool(windows=[{**OFFICE, "warmth": "standby"}], rollout={})
        await controller.tick()  # names the Revision that has the traffic
        knative.old = True
        knative.settle()
        await controller.tick()
        clock.on(timedelta(seconds=11))
        await controller.tick()  # writes on the PodAutoscaler
        knative.settle()
        await controller.tick()  # orders replicas to their warmth
        proxy.answers = [("PATCH", 409, {})]
        clock.at = MONDAY + timedelta(hours=20)
        await controller.tick()  # reads a Revision again
        stop = asyncio.Event()
        running = asyncio.create_task(controller.run(stop))
        async with asyncio.timeout(10):
            while len([True for _, _, watch in proxy.seen if watch]) < 4:
                await asyncio.sleep(0.01)
        stop.set()
        await running
    await proxy.stop()
    used = {asked(method, path, watch=watch) for method, path, watch in proxy.seen}
    assert used <= permitted()
    # `get` of what is only listed costs nothing and is what people expect beside `list`.
    assert {entry for entry in permitted() - used if entry[2] != "get"} == set()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(pools())
def test_the_schema_accepts_every_spec_that_the_model_writes(case):
    spec, _ = case
    jsonschema.validate(spec.to_wire(), SCHEMA["properties"]["spec"])
    assert WarmPoolSpec.parse(spec.to_wire()) == spec


def test_the_schema_has_the_fields_of_the_model():
    properties = SCHEMA["properties"]["spec"]["properties"]
    assert set(properties) == {field.alias for field in WarmPoolSpec.model_fields.values()}
    for name, kinds in (("windows", WINDOW_MODELS), ("exceptions", EXCEPTION_MODELS)):
        fields = {field.alias for kind in kinds for field in kind.model_fields.values()}
        assert set(properties[name]["items"]["properties"]) == fields


@pytest.mark.parametrize(
    "spec",
    [
        {"windows": [{**OFFICE, "replicas": 0}]},
        {"windows": [{**OFFICE, "days": ["Funday"]}]},
        {"windows": [{**OFFICE, "from": "8:00"}]},
        {"windows": [{**OFFICE, "warmth": "lukewarm"}]},
        {"windows": [OFFICE], "keepAlive": "ten minutes"},
        {"windows": [OFFICE], "limits": {"budget": {"amount": -1}}},
        {"windows": [OFFICE], "holidays": []},
    ],
)
async def test_the_api_refuses_a_wrong_spec_when_it_is_applied(knative, spec):
    with pytest.raises(Invalid):
        await knative.pool(**spec)


async def test_what_only_the_controller_can_check_is_in_the_status(knative, controller):
    knative.service("generate")
    await knative.pool(timeZone="Europe/Atlantis", exceptions=[{"name": "h", "holidays": {"country": "XX"}}])
    await controller.tick()
    message = (await knative.condition("Ready"))["message"]
    assert "spec.timeZone = 'Europe/Atlantis', must be" in message
    assert "spec.exceptions[0].holidays.country = 'XX', must be" in message


async def test_the_status_fits_the_schema(knative, controller, cluster, clock):
    knative.service("generate", annotations={MIN: "1"})
    await knative.pool(keepAlive="auto", limits={"budget": {"amount": 400}})
    for _ in range(4):
        await controller.tick()
        knative.settle()
        clock.on(timedelta(minutes=16))
    status = (await cluster.get(WARM_POOL, "pool", "default"))["status"]
    properties = SCHEMA["properties"]["status"]["properties"]
    assert set(status) <= set(properties)
    assert set(status["cost"]) <= set(properties["cost"]["properties"])
    jsonschema.validate(status, SCHEMA["properties"]["status"])


def test_the_shipped_prices_are_the_packaged_ones():
    packaged = Path(__file__).parents[2] / "warmpool" / "adapters" / "prices.yaml"
    assert (MANIFESTS / "controller" / "prices.yaml").read_text() == packaged.read_text()


# What a real API server decodes strictly and the local platform reads loosely: k8s.io/apiextensions-apiserver,
# pkg/apis/apiextensions/v1/types.go and types_jsonschema.go, as far as the project uses them.
COLUMN = {"name", "type", "format", "description", "priority", "jsonPath"}
VERSION = {"name", "served", "storage", "schema", "subresources", "additionalPrinterColumns"}
PROPERTY = {
    *("type", "format", "description", "default", "enum", "required", "properties", "items"),
    *("minLength", "maxLength", "pattern", "minimum", "maximum", "minItems", "maxItems"),
    *("additionalProperties", "x-kubernetes-list-type", "x-kubernetes-list-map-keys"),
    "x-kubernetes-validations",
}


def unknown_fields(schema: dict, path: str) -> list[str]:
    """Fields that a strict API server would refuse in a schema and everything below it."""
    found = [f"{path}.{key}" for key in schema if key not in PROPERTY]
    for name, inner in (schema.get("properties") or {}).items():
        found += unknown_fields(inner, f"{path}.{name}")
    for below in ("items", "additionalProperties"):
        if isinstance(schema.get(below), dict):
            found += unknown_fields(schema[below], f"{path}.{below}")
    for rule in schema.get("x-kubernetes-validations") or ():
        found += [f"{path}: rule {key}" for key in rule.keys() - {"rule", "message"}]
    return found


def test_a_strict_api_server_knows_every_field_of_the_crd():
    (version,) = CRD["spec"]["versions"]
    assert set(version) <= VERSION
    assert [column for column in version["additionalPrinterColumns"] if not set(column) <= COLUMN] == []
    assert unknown_fields(SCHEMA, "schema") == []
