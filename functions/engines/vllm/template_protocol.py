"""What the app process and its template process say to each other: one JSON object per packet.

The channel is a `SOCK_SEQPACKET` socket pair, so packets keep their boundaries and several processes (the
template and the engines that it forked) may report on the same end. Values are frozen; an unknown packet is a
bug, since both ends come from the same release.
"""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, TypeAlias

MAX_PACKET = 1 << 16
"""Bytes of one packet; texts are cut to fit."""

_TEXT_CHARS = 4000


@dataclass(frozen=True, slots=True)
class StartEngine:
    """App to template: fork an engine."""

    engine: int
    """Number of the engine, chosen by the app, never used twice."""
    argv: tuple[str, ...]
    """vLLM's own command line, without the program's name."""
    socket: str
    """Path of the unix socket on which the engine's server listens."""
    directory: str
    """The engine's private folder for temporary files."""
    cache_root: str = ""
    """Where the engine keeps what it compiles; its usual place when empty."""


@dataclass(frozen=True, slots=True)
class ImportModel:
    """App to template: the model's files are here, import its architecture."""

    directory: str


@dataclass(frozen=True, slots=True)
class KillEngine:
    """App to template: end an engine and every process that it started."""

    engine: int
    gently: bool = False
    """SIGTERM to the server, which tells its engine core; else SIGKILL to all."""


@dataclass(frozen=True, slots=True)
class Imported:
    """Template to app: everything is imported; standby."""

    seconds: float
    modules: int
    version: str
    """vLLM's."""
    device: str
    """vLLM's name of the platform: cpu, cuda, rocm, ..."""
    device_name: str = ""
    """What of it compiled code depends on: the accelerator's name, or the processor's with its features."""


@dataclass(frozen=True, slots=True)
class ImportFailed:
    """Template to app: vLLM cannot be imported; the template ends."""

    cause: str


@dataclass(frozen=True, slots=True)
class Forked:
    """Template to app: the engine's first process exists."""

    engine: int
    pid: int


@dataclass(frozen=True, slots=True)
class Loading:
    """Engine to app: it begins to read the weights; one for each worker."""

    engine: int


@dataclass(frozen=True, slots=True)
class Read:
    """Engine to app: where a worker's bytes came from; told once the cache is in order, after loading."""

    engine: int
    from_source: int
    from_cache: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """Engine to app: weights are on the device."""

    engine: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Serving:
    """Engine to app: the server accepts requests."""

    engine: int
    pids: tuple[int, ...]
    """Processes whose death is the engine's death, besides the first one."""
    late: tuple[str, ...] = ()
    """Modules that the engine had to import after the fork."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Engine to app: an error that may be the cause of what follows."""

    engine: int
    role: str
    """Process in which it happened."""
    cause: str


@dataclass(frozen=True, slots=True)
class Exited:
    """Template to app: nothing is left of the engine."""

    engine: int
    status: int
    """Exit code, or minus the signal's number."""


Packet: TypeAlias = (
    StartEngine
    | ImportModel
    | KillEngine
    | Imported
    | ImportFailed
    | Forked
    | Loading
    | Loaded
    | Read
    | Serving
    | Trouble
    | Exited
)
_KINDS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        StartEngine,
        ImportModel,
        KillEngine,
        Imported,
        ImportFailed,
        Forked,
        Loading,
        Loaded,
        Read,
        Serving,
        Trouble,
        Exited,
    )
}


def encode(packet: Packet) -> bytes:
    """The packet's bytes; long causes are cut."""
    fields = dataclasses.asdict(packet)
    if isinstance(fields.get("cause"), str):
        fields["cause"] = fields["cause"][:_TEXT_CHARS]
    return json.dumps({"kind": type(packet).__name__, **fields}, separators=(",", ":")).encode()


def decode(data: bytes) -> Packet:
    """The packet of these bytes.

    Raises:
        ValueError: no packet of this release.
    """
    try:
        fields = json.loads(data)
        kind = _KINDS[fields.pop("kind")]
        packet: Packet = kind(
            **{key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"packet = {data[:80]!r}, is of no known kind") from error
    return packet
