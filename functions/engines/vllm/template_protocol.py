"""Messages between the replica's process and its template process: one JSON object per packet.

The channel is a `SOCK_SEQPACKET` socket pair: it keeps the boundaries of packets, so that several processes
(the template and the engines forked from it) may send on the same end. Both ends come from the same
release; a packet of unknown kind is a bug. Processes are told of by pidfds (pidfd_open(2)) that travel with
a packet: they mean the same in every PID namespace, and never another process that was given the same id.
"""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, TypeAlias, get_args

MAX_PACKET_BYTES = 1 << 16
"""Size limit of one packet; long causes are cut to fit."""

MAX_PIDFDS = 64
"""Limit of the pidfds that travel with one packet."""

_CAUSE_CHARS = 4000


@dataclass(frozen=True, slots=True)
class StartEngine:
    """Replica to template: fork an engine."""

    engine: int
    """Number of the engine, chosen by the replica, never used twice."""
    argv: tuple[str, ...]
    """vLLM's own command line, without the program's name."""
    socket: str
    """Path of the unix socket on which the engine's server listens."""
    directory: str
    """The engine's private folder for temporary files."""
    cache_root: str = ""
    """`VLLM_CACHE_ROOT` of the engine, where it keeps what it compiles; vLLM's default when empty."""


@dataclass(frozen=True, slots=True)
class ImportArchitecture:
    """Replica to template: import the model classes that `config.json` in this folder names."""

    directory: str


@dataclass(frozen=True, slots=True)
class EndEngine:
    """Replica to template: end an engine with every process that it started."""

    engine: int
    graceful: bool = False
    """SIGTERM to the server, which shuts its engine core down; otherwise SIGKILL to all."""


@dataclass(frozen=True, slots=True)
class ImportFinished:
    """Template to replica: vLLM is imported; the replica is in standby."""

    seconds: float
    modules: int
    """Number of modules imported."""
    version: str
    """vLLM's version."""
    device: str
    """vLLM's name of the platform: cpu, cuda, rocm, ..."""
    device_name: str = ""
    """The accelerator's name, or the processor's with its features: what compiled code depends on."""


@dataclass(frozen=True, slots=True)
class ImportFailed:
    """Template to replica: vLLM cannot be imported; the template ends."""

    cause: str


@dataclass(frozen=True, slots=True)
class EngineForked:
    """Template to replica: the engine's first process exists. Carries a pidfd of it."""

    engine: int


@dataclass(frozen=True, slots=True)
class LoadingStarted:
    """Engine to replica: a worker begins to read the weights."""

    engine: int


@dataclass(frozen=True, slots=True)
class WeightsRead:
    """Engine to replica: where a worker's bytes came from; sent once the cache is written, after loading."""

    engine: int
    from_source: int
    """Bytes read from the model's source."""
    from_cache: int
    """Bytes read from the node's cache."""


@dataclass(frozen=True, slots=True)
class LoadingFinished:
    """Engine to replica: a worker has its weights on the device."""

    engine: int
    seconds: float


@dataclass(frozen=True, slots=True)
class ServerReady:
    """Engine to replica: the server accepts requests. Carries a pidfd of each engine core that lives."""

    engine: int
    cores: int
    """Number of engine core processes: the death of one is the engine's death."""
    late_imports: tuple[str, ...] = ()
    """Modules that the engine had to import after the fork."""


@dataclass(frozen=True, slots=True)
class ErrorReported:
    """Engine to replica: an error, possibly the cause of the engine's exit."""

    engine: int
    process: str
    """Name of the process in which it happened."""
    cause: str


@dataclass(frozen=True, slots=True)
class EngineExited:
    """Template to replica: no process of the engine is left."""

    engine: int
    status: int
    """Exit code, or minus the signal's number."""


Order: TypeAlias = StartEngine | ImportArchitecture | EndEngine
"""What the replica sends."""
EngineEvent: TypeAlias = (
    EngineForked | LoadingStarted | LoadingFinished | WeightsRead | ServerReady | ErrorReported | EngineExited
)
"""What is sent about one engine."""
Packet: TypeAlias = Order | ImportFinished | ImportFailed | EngineEvent

_KINDS: dict[str, Any] = {kind.__name__: kind for kind in get_args(Packet)}


def encode(packet: Packet) -> bytes:
    """The bytes of a packet; a long cause is cut."""
    fields = dataclasses.asdict(packet)
    if isinstance(fields.get("cause"), str):
        fields["cause"] = fields["cause"][:_CAUSE_CHARS]
    return json.dumps({"kind": type(packet).__name__, **fields}, separators=(",", ":")).encode()


def decode(data: bytes) -> Packet:
    """The packet in these bytes.

    Raises:
        ValueError: the bytes are no packet of this release.
    """
    try:
        fields = json.loads(data)
        kind = _KINDS[fields.pop("kind")]
        packet: Packet = kind(
            **{key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"packet = {data[:80]!r}: unknown kind or fields") from error
    return packet
