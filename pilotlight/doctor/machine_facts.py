"""What is read of this machine, as values (pure)."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pilotlight.doctor.findings import Unknown


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """What is known of this machine.

    Attributes:
        processors: that this process may use.
        memory_bytes: in all, or what the control group permits.
        available_bytes: of memory, now.
        disks: free bytes by what the folder is for.
        gpus: name and memory of each, as nvidia-smi prints them.
        criu: its version, or why snapshots cannot be made with it.
        cgroups: whether containers' limits can be enforced, in words.
        mounts: whether containers can have volumes.
        ports: those of the platform, and what listens there: None if nothing does.
        platform: whether the local platform runs here already.
        proxies: URLs by scheme, and whether loopback is left out.
        packages: versions of those that engines need; those missing are left out.
    """

    processors: float
    memory_bytes: int
    available_bytes: int
    disks: Mapping[str, int | Unknown]
    gpus: tuple[str, ...] | Unknown
    criu: str | Unknown
    cgroups: bool
    mounts: bool
    ports: Mapping[int, bool]
    platform: bool
    proxies: Mapping[str, str] = field(default_factory=dict)
    loopback_is_direct: bool = True
    packages: Mapping[str, str] = field(default_factory=dict)
