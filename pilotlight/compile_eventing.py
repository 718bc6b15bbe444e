"""Knative Eventing's sources in place of our dispatcher, for triggers with `delivery: eventing` (pure).

They know less than a Trigger: what one of them cannot do is refused, or said in `limits_of`.
"""

from typing import Any, Final
from urllib.parse import urlsplit

from pilotlight.agent import Agent, AgentFileError
from pilotlight.agent_triggers import AgentTrigger
from pilotlight.compile_triggers import trigger_object
from triggers.spec.brokers import KafkaTopic, QueueRef, RabbitmqQueue, SqsQueue

_SERVING: Final = "serving.knative.dev/v1"
_SASL: Final = {"plain": "PLAIN", "scram-sha-256": "SCRAM-SHA-256", "scram-sha-512": "SCRAM-SHA-512"}


def eventing_objects(agent: Agent) -> list[dict[str, Any]]:
    """A source for each trigger with `delivery: eventing`, and the sink of its dead letters where it has one.

    Raises:
        AgentFileError: Eventing has no source of that kind, or it needs what the file does not say.
    """
    objects: list[dict[str, Any]] = []
    for trigger in agent.spec.triggers:
        if trigger.delivery == "eventing":
            objects += _source(agent, trigger)
    return objects


def limits_of(trigger: AgentTrigger) -> list[str]:
    """What of a trigger the source of Eventing does not do."""
    found = []
    if trigger.source.kafka is None and trigger.dead_letter is not None:
        way = "a redrive policy" if trigger.source.sqs is not None else "an x-dead-letter-exchange"
        found.append(f"deadLetter: its source sends none; give the queue {way}")
    for field, name in (("rate", "rate"), ("reply", "reply"), ("total_time", "retry.totalTime")):
        holder = trigger.retry if field == "total_time" else trigger
        if getattr(holder, field) is not None:
            found.append(name)
    if trigger.batch.size > 1:
        found.append("batch")
    if trigger.filters:
        found.append("filters")
    if trigger.wake_ahead:
        found.append("wakeAhead")
    return found


def _source(agent: Agent, trigger: AgentTrigger) -> list[dict[str, Any]]:
    obj = trigger_object(agent, trigger)
    meta = obj["metadata"]
    sink = {
        "ref": {
            "apiVersion": _SERVING,
            "kind": "Service",
            "name": obj["spec"]["target"]["service"],
            "namespace": meta["namespace"],
        },
        "uri": obj["spec"]["target"].get("path", "/"),
    }
    source = trigger.source
    if source.sqs is not None:
        return [_integration_source(agent, trigger, source.sqs, meta, sink)]
    if source.rabbitmq is not None:
        return [_rabbitmq_source(trigger, source.rabbitmq, meta, sink)]
    if source.kafka is not None:
        return _kafka_source(agent, trigger, source.kafka, meta, sink)
    raise AgentFileError(
        f"triggers: {trigger.name}: delivery eventing must have a source of sqs, rabbitmq or kafka, "
        f"not {source.kind}"
    )


def _integration_source(
    agent: Agent, trigger: AgentTrigger, queue: SqsQueue, meta: dict[str, Any], sink: dict[str, Any]
) -> dict[str, Any]:
    settings = agent.spec.dispatcher
    region = queue.region or (queue.queue.split(":")[3] if queue.queue.startswith("arn:") else None)
    if region is None or not queue.queue.startswith("arn:"):
        raise AgentFileError(
            f"triggers: {trigger.name}: delivery eventing must have the queue's ARN as source.sqs.queue"
        )
    sqs: dict[str, Any] = {
        "arn": queue.queue,
        "region": region,
        # Nobody prolongs it, so it has to be as long as a request may take with its cold start.
        "visibilityTimeout": min(43_200, round(trigger.timeout) + 30),
        "waitTimeSeconds": 20,
        "maxMessagesPerPoll": min(10, trigger.concurrency),
    }
    if queue.endpoint is not None:
        sqs |= {"uriEndpointOverride": queue.endpoint, "overrideEndpoint": True}
    auth: dict[str, Any] = {}
    if settings.service_account_name is not None:
        auth = {"auth": {"serviceAccountName": settings.service_account_name}}
    elif settings.aws_secret is not None:
        auth = {"auth": {"secret": {"ref": {"name": settings.aws_secret}}}}
    return {
        "apiVersion": "sources.knative.dev/v1alpha1",
        "kind": "IntegrationSource",
        "metadata": meta,
        "spec": {"aws": {"sqs": sqs, **auth}, "sink": sink},
    }


def _rabbitmq_source(
    trigger: AgentTrigger, queue: RabbitmqQueue, meta: dict[str, Any], sink: dict[str, Any]
) -> dict[str, Any]:
    if queue.secret is None:
        raise AgentFileError(
            f"triggers: {trigger.name}: delivery eventing must have source.rabbitmq.secret, a Secret with "
            "uri, username and password"
        )
    vhost = urlsplit(queue.url).path.strip("/") if queue.url else ""
    return {
        "apiVersion": "sources.knative.dev/v1alpha1",
        "kind": "RabbitmqSource",
        "metadata": meta,
        "spec": {
            "rabbitmqClusterReference": {
                "connectionSecret": {"name": queue.secret},
                "namespace": meta["namespace"],
            },
            "rabbitmqResourcesConfig": {
                "queueName": queue.queue,
                "predeclared": True,
                "parallelism": 1 if queue.ordered else min(1000, trigger.concurrency),
                **({"vhost": vhost} if vhost else {}),
            },
            "delivery": _delivery(trigger),
            "sink": sink,
        },
    }


def _kafka_source(
    agent: Agent, trigger: AgentTrigger, topic: KafkaTopic, meta: dict[str, Any], sink: dict[str, Any]
) -> list[dict[str, Any]]:
    servers = _servers(trigger, topic)
    delivery: dict[str, Any] = _delivery(trigger) | {"timeout": _iso(trigger.timeout)}
    objects = []
    if trigger.dead_letter is not None:
        letters = _dead_letter_sink(agent, trigger, trigger.dead_letter, meta)
        delivery["deadLetterSink"] = {
            "ref": {
                "apiVersion": letters["apiVersion"],
                "kind": letters["kind"],
                "name": letters["metadata"]["name"],
                "namespace": meta["namespace"],
            }
        }
        objects.append(letters)
    spec: dict[str, Any] = {
        "bootstrapServers": servers,
        "topics": [topic.topic],
        "consumerGroup": topic.group_name(f"{meta['namespace']}/{meta['name']}"),
        "consumers": agent.spec.dispatcher.max_replicas,
        "initialOffset": "earliest",
        "ordering": "ordered",
        "delivery": delivery,
        "sink": sink,
    }
    if network := _kafka_network(topic):
        spec["net"] = network
    return [
        *objects,
        {"apiVersion": "sources.knative.dev/v1", "kind": "KafkaSource", "metadata": meta, "spec": spec},
    ]


def _kafka_network(topic: KafkaTopic) -> dict[str, Any]:
    def key(name: str) -> dict[str, Any]:
        return {"secretKeyRef": {"name": topic.secret, "key": name}}

    network: dict[str, Any] = {}
    if topic.sasl is not None and topic.secret is not None:
        network["sasl"] = {
            "enable": True,
            "user": key("username"),
            "password": key("password"),
            "type": key("sasl.mechanism"),
        }
    if topic.tls:
        network["tls"] = {"enable": True} | ({"caCert": key("ca.crt")} if topic.secret is not None else {})
    return network


def _dead_letter_sink(
    agent: Agent, trigger: AgentTrigger, ref: QueueRef, meta: dict[str, Any]
) -> dict[str, Any]:
    name = {"name": f"{meta['name']}-dead-letters", "namespace": meta["namespace"]}
    if ref.kafka is not None:
        topic = ref.kafka
        spec: dict[str, Any] = {"topic": topic.topic, "bootstrapServers": _servers(trigger, topic)}
        if topic.secret is not None:
            spec["auth"] = {"secret": {"ref": {"name": topic.secret}}}
        return {
            "apiVersion": "eventing.knative.dev/v1alpha1",
            "kind": "KafkaSink",
            "metadata": name,
            "spec": spec,
        }
    if ref.sqs is not None and ref.sqs.queue.startswith("arn:"):
        aws: dict[str, Any] = {"sqs": {"arn": ref.sqs.queue, "region": ref.sqs.queue.split(":")[3]}}
        if agent.spec.dispatcher.aws_secret is not None:
            aws["auth"] = {"secret": {"ref": {"name": agent.spec.dispatcher.aws_secret}}}
        return {
            "apiVersion": "sinks.knative.dev/v1alpha1",
            "kind": "IntegrationSink",
            "metadata": name,
            "spec": {"aws": aws},
        }
    raise AgentFileError(
        f"triggers: {trigger.name}: delivery eventing must have a deadLetter of kafka, or of sqs with its ARN"
    )


def _servers(trigger: AgentTrigger, topic: KafkaTopic) -> list[str]:
    if topic.bootstrap_servers is None:
        raise AgentFileError(
            f"triggers: {trigger.name}: delivery eventing must have bootstrapServers of topic {topic.topic}"
        )
    return topic.bootstrap_servers.split(",")


def _delivery(trigger: AgentTrigger) -> dict[str, Any]:
    return {
        "retry": trigger.retry.attempts - 1,
        "backoffPolicy": "exponential",
        "backoffDelay": _iso(trigger.retry.backoff.initial),
    }


def _iso(seconds: float) -> str:
    """An ISO 8601 duration, as Eventing takes it."""
    return f"PT{seconds:g}S"
