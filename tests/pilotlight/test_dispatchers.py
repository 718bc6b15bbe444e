"""`pilotlight render --dispatchers`: what delivers an agent's events on a cluster."""

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from knative.client.cluster import Object
from pilotlight.cli import app
from triggers.spec.brokers import NatsStream

SCHEMAS = json.loads((Path(__file__).parent / "data" / "eventing_schemas.json").read_text())["schemas"]
ACCOUNT = "123456789012"
AGENT: dict[str, Any] = {
    "apiVersion": "pilotlight.dev/v1alpha1",
    "kind": "Agent",
    "metadata": {"name": "support", "namespace": "agents"},
    "spec": {
        "stages": [{"name": "work", "kind": "container", "image": "example.com/work:1"}],
        "dispatcher": {"image": "example.com/pilotlight-triggers:1", "awsSecret": "aws"},
    },
}
SOURCES: dict[str, dict[str, Any]] = {
    "sqs": {"queue": f"arn:aws:sqs:eu-central-1:{ACCOUNT}:orders"},
    "rabbitmq": {"queue": "orders", "url": "amqp://rabbitmq.mq:5672/shop", "secret": "rabbitmq"},
    "nats": {"stream": "ORDERS", "url": "nats://nats.nats:4222", "secret": "nats"},
    "redis": {"stream": "orders", "url": "rediss://valkey.cache:6380/2", "secret": "valkey"},
    "kafka": {
        "topic": "orders", "bootstrapServers": "kafka-1:9093,kafka-2:9093", "tls": True,
        "sasl": "scram-sha-512", "secret": "kafka",
    },
}  # fmt: skip


def strict(schema: Any) -> Any:
    """The schema as the API server applies it, which prunes unknown fields: here they are errors."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: strict(value) for key, value in schema.items()}
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and "type" in schema and not open_ended:
        found["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        found.pop("type", None)
    return found


def check(obj: Object) -> None:
    """Against the published schema of its kind, where that is a custom resource of KEDA or Eventing."""
    entry = SCHEMAS[f"{obj['apiVersion']}/{obj['kind']}"]
    schema = strict(entry["schema"])
    schema["properties"] |= {"apiVersion": {}, "kind": {}, "metadata": {}}
    jsonschema.validate(obj, schema)


def render(tmp_path: Path, *triggers: dict[str, Any], **dispatcher: Any) -> tuple[list[Object], str]:
    agent = copy.deepcopy(AGENT)
    agent["spec"]["triggers"] = list(triggers)
    agent["spec"]["dispatcher"] |= dispatcher
    path = tmp_path / "agent.yaml"
    path.write_text(yaml.safe_dump(agent))
    result = CliRunner().invoke(app, ["render", "--dispatchers", "-f", str(path)], catch_exceptions=True)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return [], str(result.exception)
    assert result.exit_code == 0, result.output
    return [one for one in yaml.safe_load_all(result.stdout) if one], result.stderr


def trigger(kind: str, **fields: Any) -> dict[str, Any]:
    return {"name": kind, "source": {kind: SOURCES[kind]}, "path": "/", "timeout": "20m", **fields}


def one(objects: list[Object], kind: str) -> Object:
    [found] = [obj for obj in objects if obj["kind"] == kind]
    return found


@pytest.mark.parametrize("kind", SOURCES)
def test_each_broker_gets_a_deployment_that_keda_scales_from_zero(tmp_path, kind):
    objects, _ = render(tmp_path, trigger(kind))
    for obj in objects:
        if obj["apiVersion"].startswith("keda.sh"):
            check(obj)
    scaled, deployment = one(objects, "ScaledObject"), one(objects, "Deployment")
    assert scaled["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"] == f"{kind}-support"
    assert scaled["spec"]["minReplicaCount"] == 0
    assert "replicas" not in deployment["spec"], "KEDA's"
    pod = deployment["spec"]["template"]["spec"]
    assert "--drain-seconds=1200" in pod["containers"][0]["args"]
    assert pod["terminationGracePeriodSeconds"] > 1200, "what is under way is finished"
    assert scaled["spec"]["cooldownPeriod"] > 1200, "the last pod outlives its last request"
    for scaler in scaled["spec"]["triggers"]:
        assert all(isinstance(value, str) for value in scaler["metadata"].values()), "KEDA takes texts"
    one(objects, "RoleBinding")


def test_what_keda_looks_at_is_what_the_dispatcher_consumes(tmp_path):
    scalers = {
        kind: one(render(tmp_path, trigger(kind))[0], "ScaledObject")["spec"]["triggers"] for kind in SOURCES
    }
    assert scalers["sqs"][0]["metadata"]["queueURL"] == (
        f"https://sqs.eu-central-1.amazonaws.com/{ACCOUNT}/orders"
    )
    assert scalers["rabbitmq"][0]["metadata"]["host"] == "amqp://rabbitmq.mq:5672/shop"
    assert scalers["nats"][0]["metadata"]["consumer"] == NatsStream(stream="ORDERS").consumer_name(
        "agents/nats-support"
    )
    assert [set(one["metadata"]) & {"lagCount", "pendingEntriesCount"} for one in scalers["redis"]] == [
        {"lagCount"}, {"pendingEntriesCount"},
    ]  # fmt: skip
    assert {one["metadata"]["consumerGroup"] for one in scalers["redis"]} == {"agents/redis-support"}
    assert scalers["kafka"][0]["metadata"]["consumerGroup"] == "agents.kafka-support"


def test_credentials_are_references_to_secrets(tmp_path):
    objects, _ = render(tmp_path, trigger("kafka"), targetKey="support-key")
    authentication, deployment = one(objects, "TriggerAuthentication"), one(objects, "Deployment")
    assert {entry["parameter"]: (entry["name"], entry["key"]) for entry in authentication["spec"]["secretTargetRef"]} == {
        "username": ("kafka", "username"), "password": ("kafka", "password"), "ca": ("kafka", "ca.crt"),
    }  # fmt: skip
    pod = deployment["spec"]["template"]["spec"]
    assert [volume["secret"]["secretName"] for volume in pod["volumes"]] == ["kafka", "support-key"]
    mounts = [mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]]
    assert {f"/etc/pilotlight/trigger-secrets/{name}" for name in ("kafka", "support-key")} <= set(mounts)


def test_who_keeps_an_order_alone_has_one_pod(tmp_path):
    ordered = trigger("nats")
    ordered["source"] = {"nats": {**SOURCES["nats"], "ordered": True}}
    objects, _ = render(tmp_path, ordered, maxReplicas=10)
    assert one(objects, "ScaledObject")["spec"]["maxReplicaCount"] == 1
    assert one(objects, "Deployment")["spec"]["strategy"] == {"type": "Recreate"}


@pytest.mark.parametrize(
    ("kind", "letters", "kinds"),
    [
        ("sqs", None, ["IntegrationSource"]),
        ("rabbitmq", None, ["RabbitmqSource"]),
        ("kafka", {"kafka": {**SOURCES["kafka"], "topic": "dead"}}, ["KafkaSink", "KafkaSource"]),
        ("kafka", {"sqs": {"queue": f"arn:aws:sqs:eu-central-1:{ACCOUNT}:dead"}}, ["IntegrationSink", "KafkaSource"]),
    ],
)  # fmt: skip
def test_eventing_delivers_instead(tmp_path, kind, letters, kinds):
    fields = {"delivery": "eventing"} | ({} if letters is None else {"deadLetter": letters})
    objects, said = render(tmp_path, trigger(kind, **fields))
    assert [obj["kind"] for obj in objects] == kinds
    for obj in objects:
        check(obj)
    assert objects[-1]["spec"]["sink"]["ref"]["name"] == "work-support"
    assert "does without wakeAhead" in said
    if letters is not None:
        assert (
            objects[-1]["spec"]["delivery"]["deadLetterSink"]["ref"]["name"] == objects[0]["metadata"]["name"]
        )


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"name": "a", "source": {"sqs": {"queue": "orders"}}}, "source.sqs.region is required"),
        ({"name": "a", "source": {"redis": {"stream": "orders"}}}, "source.redis.url is required"),
        ({"name": "a", "source": {"nats": {"stream": "S"}}}, "source.nats.url is required"),
        ({"name": "a", "delivery": "eventing", "source": {"nats": {"stream": "S"}}}, "not nats"),
        ({"name": "a", "delivery": "eventing", "source": {"sqs": {"queue": "orders"}}}, "ARN"),
    ],
)
def test_what_a_cluster_needs_to_know_is_asked_for(tmp_path, wrong, said):
    objects, error = render(tmp_path, wrong)
    assert objects == []
    assert said in error


def test_a_url_with_credentials_is_refused(tmp_path):
    source = {"rabbitmq": {"queue": "orders", "url": "amqp://user:hunter2@rabbitmq:5672/"}}
    objects, error = render(tmp_path, {"name": "a", "source": source})
    assert objects == []
    assert "url" in error
    assert "hunter2" not in error
