"""KEDA's objects for a trigger: its pods follow the queue, which KEDA sees with these credentials (pure)."""

import re
from typing import Any, Final
from urllib.parse import urlsplit

from pilotlight.agent import Agent, AgentFileError
from pilotlight.agent_triggers import AgentTrigger
from triggers.spec.brokers import KafkaTopic, NatsStream, RabbitmqQueue, RedisStream, SqsQueue

_ARN: Final = re.compile(r"arn:aws[a-z-]*:sqs:(?P<region>[a-z0-9-]+):(?P<account>\d{12}):(?P<name>[\w.-]+)")
_SQS_URL: Final = re.compile(r"https?://sqs\.(?P<region>[a-z0-9-]+)\.amazonaws\.com")
_COOLDOWN_S: Final = 300
_SASL: Final = {"plain": "plaintext", "scram-sha-256": "scram_sha256", "scram-sha-512": "scram_sha512"}

Metadata = dict[str, str]


def replicas_at_most(agent: Agent, trigger: AgentTrigger) -> int:
    """One where only a single process keeps the order."""
    source = trigger.source
    single = (source.nats is not None and source.nats.ordered) or (
        source.rabbitmq is not None and source.rabbitmq.ordered
    )
    return 1 if single else agent.spec.dispatcher.max_replicas


def keda_objects(
    agent: Agent, trigger: AgentTrigger, name: str, longest_request_s: int
) -> list[dict[str, Any]]:
    """The ScaledObject of a trigger's Deployment, and the TriggerAuthentication that it needs.

    Raises:
        AgentFileError: the file does not say what KEDA has to know.
    """
    meta = {"name": name, "namespace": agent.metadata.namespace}
    scalers, authentication = _Scalers(agent, trigger, name).made()
    reference = {"authenticationRef": {"name": name}} if authentication else {}
    scaled = {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": meta,
        "spec": {
            "scaleTargetRef": {"name": name},
            "minReplicaCount": 0,
            "maxReplicaCount": replicas_at_most(agent, trigger),
            "pollingInterval": agent.spec.dispatcher.polling_seconds,
            # The last pod goes only when nothing can be in its hands any more: some scalers count waiting
            # messages alone, and a request that waits for a cold start is none of those.
            "cooldownPeriod": max(_COOLDOWN_S, longest_request_s + 60),
            # A broker that KEDA cannot look into is no reason to stand still.
            "fallback": {"failureThreshold": 3, "replicas": 1},
            "triggers": [{**scaler, **reference} for scaler in scalers],
        },
    }
    if not authentication:
        return [scaled]
    return [
        {
            "apiVersion": "keda.sh/v1alpha1",
            "kind": "TriggerAuthentication",
            "metadata": meta,
            "spec": authentication,
        },
        scaled,
    ]


class _Scalers:
    """The scalers of one trigger's source, and KEDA's credentials for them."""

    def __init__(self, agent: Agent, trigger: AgentTrigger, name: str) -> None:
        self._settings = agent.spec.dispatcher
        self._trigger = trigger
        self._consumer = f"{agent.metadata.namespace}/{name}"
        self._per_replica = str(trigger.concurrency * trigger.batch.size)

    def made(self) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        source = self._trigger.source
        if source.sqs is not None:
            return self._sqs(source.sqs)
        if source.rabbitmq is not None:
            return self._rabbitmq(source.rabbitmq)
        if source.nats is not None:
            return self._nats(source.nats)
        if source.redis is not None:
            return self._redis(source.redis)
        assert source.kafka is not None
        return self._kafka(source.kafka)

    def _missing(self, field: str, example: str) -> AgentFileError:
        return AgentFileError(
            f"triggers: {self._trigger.name}: source.{field} is required on a cluster: KEDA reads no "
            f"environment of ours, e.g. {example}"
        )

    def _sqs(self, queue: SqsQueue) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        arn, url = _ARN.fullmatch(queue.queue), _SQS_URL.match(queue.queue)
        region = queue.region or (arn["region"] if arn else url["region"] if url else None)
        if region is None:
            raise self._missing("sqs.region", "eu-central-1, or the queue's ARN")
        address = queue.queue
        if arn is not None:
            address = f"https://sqs.{arn['region']}.amazonaws.com/{arn['account']}/{arn['name']}"
        metadata = {
            "queueURL": address,
            "awsRegion": region,
            "queueLength": self._per_replica,
            "activationQueueLength": "0",
            # A message in hand keeps its pod.
            "scaleOnInFlight": "true",
        }
        if queue.endpoint is not None:
            metadata["awsEndpoint"] = queue.endpoint
        authentication: dict[str, Any] = {}
        if self._settings.pod_identity is not None:
            authentication = {"podIdentity": {"provider": self._settings.pod_identity}}
        elif self._settings.aws_secret is not None:
            keys = {"awsAccessKeyID": "AWS_ACCESS_KEY_ID", "awsSecretAccessKey": "AWS_SECRET_ACCESS_KEY"}
            authentication = _secret(self._settings.aws_secret, keys)
        else:
            raise AgentFileError(
                f"triggers: {self._trigger.name}: dispatcher.podIdentity or dispatcher.awsSecret is required "
                "on a cluster: KEDA has to be allowed sqs:GetQueueAttributes"
            )
        return [{"type": "aws-sqs-queue", "metadata": metadata}], authentication

    def _rabbitmq(self, queue: RabbitmqQueue) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        metadata = {
            "queueName": queue.queue,
            "protocol": "amqp",
            "mode": "QueueLength",
            "value": self._per_replica,
            "activationValue": "0",
        }
        keys: dict[str, str] = {}
        if queue.secret is not None:
            keys = {"username": "username", "password": "password"}
        if queue.url is not None:
            metadata["host"] = queue.url
        elif queue.secret is not None:
            keys["host"] = "url"
        else:
            metadata["hostFromEnv"] = "RABBITMQ_URL"
        return [{"type": "rabbitmq", "metadata": metadata}], _secret(queue.secret, keys)

    def _nats(self, stream: NatsStream) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        monitoring = self._settings.nats_monitoring
        if monitoring is None:
            if stream.url is None:
                raise self._missing("nats.url", "nats://nats.nats.svc.cluster.local:4222 (or natsMonitoring)")
            monitoring = f"{urlsplit(stream.url.split(',')[0]).hostname}:8222"
        metadata = {
            "natsServerMonitoringEndpoint": monitoring,
            "account": "$G",
            "stream": stream.stream,
            "consumer": stream.consumer_name(self._consumer),
            "lagThreshold": self._per_replica,
            "activationLagThreshold": "0",
        }
        return [{"type": "nats-jetstream", "metadata": metadata}], {}

    def _redis(self, stream: RedisStream) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        if stream.url is None:
            raise self._missing("redis.url", "redis://valkey.valkey.svc.cluster.local:6379/0")
        parts = urlsplit(stream.url)
        common = {
            "address": f"{parts.hostname}:{parts.port or 6379}",
            "stream": stream.stream,
            "consumerGroup": stream.group_name(self._consumer),
            "databaseIndex": parts.path.strip("/") or "0",
            "enableTLS": str(parts.scheme == "rediss").lower(),
        }
        per = self._per_replica
        # What was not delivered, and what was and is not done: retries wait among the latter.
        scalers = [
            {
                "type": "redis-streams",
                "metadata": common | {"lagCount": per, "activationLagCount": "0"},
            },
            {"type": "redis-streams", "metadata": common | {"pendingEntriesCount": per}},
        ]
        keys = {"username": "username", "password": "password"}
        return scalers, _secret(stream.secret, keys)

    def _kafka(self, topic: KafkaTopic) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        metadata: Metadata = {
            "consumerGroup": topic.group_name(self._consumer),
            "topic": topic.topic,
            "lagThreshold": self._per_replica,
            "activationLagThreshold": "0",
            "offsetResetPolicy": "earliest",
            "tls": "enable" if topic.tls else "disable",
            "sasl": _SASL[topic.sasl] if topic.sasl else "none",
        }
        if topic.bootstrap_servers is not None:
            metadata["bootstrapServers"] = topic.bootstrap_servers
        else:
            metadata["bootstrapServersFromEnv"] = "KAFKA_URL"
        keys: dict[str, str] = {}
        if topic.sasl is not None:
            keys |= {"username": "username", "password": "password"}
        if topic.tls:
            keys |= {"ca": "ca.crt"}
        return [{"type": "kafka", "metadata": metadata}], _secret(topic.secret, keys)


def _secret(name: str | None, keys: dict[str, str]) -> dict[str, Any]:
    """A TriggerAuthentication's spec: KEDA's parameters, and the keys of the Secret that have them."""
    if name is None or not keys:
        return {}
    return {
        "secretTargetRef": [
            {"parameter": parameter, "name": name, "key": key} for parameter, key in keys.items()
        ]
    }
