"""librdkafka's built-in mock cluster as a process of its own: `python kafka_mock_cluster.py`.

Prints the bootstrap servers; reads commands, one a line: `topic NAME PARTITIONS`, `down`, `up`. Answers `ok`.
What it holds lives in its memory: a broker that is down closes its connections and keeps its data.
"""

import ctypes
import sys
from pathlib import Path

import confluent_kafka

PRODUCER = 0
BROKER = 1


def librdkafka() -> ctypes.CDLL:
    """The library inside the client's package."""
    package = Path(confluent_kafka.__file__).parent
    [found] = package.parent.glob("confluent_kafka.libs/librdkafka*.so*")
    library = ctypes.CDLL(str(found))
    library.rd_kafka_conf_new.restype = ctypes.c_void_p
    library.rd_kafka_new.restype = ctypes.c_void_p
    library.rd_kafka_new.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
    library.rd_kafka_mock_cluster_new.restype = ctypes.c_void_p
    library.rd_kafka_mock_cluster_new.argtypes = [ctypes.c_void_p, ctypes.c_int]
    library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
    library.rd_kafka_mock_cluster_bootstraps.argtypes = [ctypes.c_void_p]
    library.rd_kafka_mock_topic_create.argtypes = [
        ctypes.c_void_p,
        ctypes.c_char_p,
        ctypes.c_int,
        ctypes.c_int,
    ]
    library.rd_kafka_mock_group_initial_rebalance_delay_ms.argtypes = [ctypes.c_void_p, ctypes.c_int32]
    for name in ("rd_kafka_mock_broker_set_down", "rd_kafka_mock_broker_set_up"):
        getattr(library, name).argtypes = [ctypes.c_void_p, ctypes.c_int32]
    return library


def main() -> None:
    library = librdkafka()
    message = ctypes.create_string_buffer(512)
    handle = library.rd_kafka_new(PRODUCER, library.rd_kafka_conf_new(), message, len(message))
    assert handle, message.value.decode()
    cluster = library.rd_kafka_mock_cluster_new(handle, 1)
    library.rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, 100)
    print(library.rd_kafka_mock_cluster_bootstraps(cluster).decode(), flush=True)  # noqa: T201
    for line in sys.stdin:
        match line.split():
            case ["topic", name, partitions]:
                error = library.rd_kafka_mock_topic_create(cluster, name.encode(), int(partitions), 1)
            case ["down"]:
                error = library.rd_kafka_mock_broker_set_down(cluster, BROKER)
            case ["up"]:
                error = library.rd_kafka_mock_broker_set_up(cluster, BROKER)
            case _:
                error = "unknown command"
        print(f"error {error}" if error else "ok", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
