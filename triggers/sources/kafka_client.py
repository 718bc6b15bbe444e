"""librdkafka's configuration and errors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from confluent_kafka import KafkaError, KafkaException

from triggers.sources.base import (
    BrokerError,
    BrokerMisconfiguredError,
    BrokerUnavailableError,
    MessageRefusedError,
)
from triggers.sources.credentials import broker_url, read_credentials

if TYPE_CHECKING:
    from triggers.sources.settings import BrokerSettings
    from triggers.spec.brokers import KafkaTopic

CALL_S: Final = 10.0


class RebalancingError(BrokerUnavailableError):
    """The group shares out its partitions anew: the same call succeeds soon, or the partition is gone."""


_REBALANCING: Final = {
    KafkaError.REBALANCE_IN_PROGRESS, KafkaError.ILLEGAL_GENERATION, KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError._ASSIGNMENT_LOST,  # noqa: SLF001
}  # fmt: skip
_MISCONFIGURED: Final = {
    KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED, KafkaError.TOPIC_AUTHORIZATION_FAILED,  # noqa: SLF001
    KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._SSL,  # noqa: SLF001
    KafkaError.INVALID_SESSION_TIMEOUT,
    KafkaError.TOPIC_EXCEPTION, KafkaError.UNSUPPORTED_SASL_MECHANISM, KafkaError._INVALID_ARG,  # noqa: SLF001
}  # fmt: skip
_REFUSED: Final = {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_RECORD, KafkaError.RECORD_LIST_TOO_LARGE}


def configuration(spec: KafkaTopic, settings: BrokerSettings) -> dict[str, Any]:
    """What consumers and producers have in common."""
    credentials = read_credentials(settings.environment, "KAFKA", spec.secret)
    found: dict[str, Any] = {
        "bootstrap.servers": broker_url(spec.bootstrap_servers, credentials, "KAFKA"),
        "client.id": "pilotlight",
        "socket.connection.setup.timeout.ms": 5000,
        "reconnect.backoff.max.ms": 2000,
        "allow.auto.create.topics": False,
        "log_level": 2,  # the dispatcher says in one line what is wrong
        "security.protocol": ("sasl_" if spec.sasl else "") + ("ssl" if spec.tls else "plaintext"),
    }
    if spec.sasl is not None:
        if credentials.username is None or credentials.password is None:
            raise BrokerMisconfiguredError(
                f"{spec.topic}: sasl = {spec.sasl} needs KAFKA_USERNAME and KAFKA_PASSWORD, or a Secret"
            )
        found |= {
            "sasl.mechanism": spec.sasl.upper(),
            "sasl.username": credentials.username,
            "sasl.password": credentials.password,
        }
    if spec.tls:
        credentials.ssl_context()  # the files are checked where the error can name them
        files = {
            "ssl.ca.location": credentials.ca_file,
            "ssl.certificate.location": credentials.cert_file,
            "ssl.key.location": credentials.key_file,
        }
        found |= {name: path for name, path in files.items() if path is not None}
    return found


def error_of(error: KafkaError, topic: str) -> BrokerError:
    """Librdkafka's error as this package's."""
    text = " ".join(error.str().split())[:200]
    if error.code() in _MISCONFIGURED:
        return BrokerMisconfiguredError(f"{topic}: Kafka answers {error.name()}: {text}")
    if error.code() in _REBALANCING:
        return RebalancingError(f"{topic}: Kafka shares out the partitions anew ({error.name()})")
    if error.code() in _REFUSED:
        return MessageRefusedError(f"{topic}: Kafka does not take the message: {error.name()}")
    return BrokerUnavailableError(f"{topic}: Kafka cannot be reached ({error.name()}: {text})")


@contextlib.contextmanager
def translated(topic: str) -> Iterator[None]:
    """Raise this package's exceptions in place of librdkafka's."""
    try:
        yield
    except KafkaException as error:
        raise error_of(error.args[0], topic) from None
    except BufferError:
        raise BrokerUnavailableError(f"{topic}: too many messages wait for Kafka's answer") from None
    except RuntimeError as error:
        raise BrokerUnavailableError(f"{topic}: the connection to Kafka is closed ({error})") from None


def check_topic(client: Any, topic: str, known: BrokerError | None) -> list[int]:
    """The topic's partitions.

    Raises:
        BrokerMisconfiguredError: there is no such topic.
        BrokerUnavailableError: no broker answers.
    """
    try:
        with translated(topic):
            found = client.list_topics(topic, timeout=CALL_S).topics[topic]
    except BrokerUnavailableError:
        if known is not None:  # the reason, such as refused credentials, came by a callback
            raise known from None
        raise
    if found.error is not None:
        if found.error.code() in {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC}:  # noqa: SLF001
            raise BrokerMisconfiguredError(f"{topic}: there is no such topic at Kafka")
        raise error_of(found.error, topic)
    return sorted(found.partitions)
