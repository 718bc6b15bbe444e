"""Which GPUs a process holds (pure)."""

from collections.abc import Mapping


def held_devices(environ: Mapping[str, str]) -> tuple[str, ...] | None:
    """Indices or UUIDs of the devices that a process holds; None: all that NVML shows.

    `CUDA_VISIBLE_DEVICES` counts before the container runtime's `NVIDIA_VISIBLE_DEVICES`. A pod without
    either sees only its own devices; elsewhere a process to which nothing was given holds none.
    Indices are taken in the order of the PCI bus, which is NVML's (`CUDA_DEVICE_ORDER=PCI_BUS_ID`, as the
    local platform sets it).
    """
    given = environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        given = environ.get("NVIDIA_VISIBLE_DEVICES")
        if given == "all":
            return None
    if given is None:
        return None if environ.get("KUBERNETES_SERVICE_HOST") else ()
    names = tuple(name.strip() for name in given.split(",") if name.strip())
    return () if set(names) & {"-1", "none", "void", "NoDevFiles"} else names
