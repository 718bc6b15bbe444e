"""OpenMP's settings for vLLM on CPUs.

They count only at the start of the process that imports torch, so the replica sets them for its template
process.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Mapping
from pathlib import Path

from weights import processors


def is_cpu_build() -> bool:
    """Whether the installed torch is built for CPUs only; read from its version, without an import."""
    try:
        return importlib.metadata.version("torch").endswith("+cpu")
    except importlib.metadata.PackageNotFoundError:
        return False


def environment(current: Mapping[str, str]) -> dict[str, str]:
    """Variables to set for a process that imports a CPU build of torch; none for other builds.

    vLLM sets the same for the workers that it spawns: torch's own libgomp is loaded first, so that torch's
    and vLLM's kernels share one thread pool, and there is one thread for each processor but one, which the
    scheduler and the server use. Processors are counted as the container's CPU limit grants them, not as the
    machine has them: more threads would wait for the quota.

    Args:
        current: the environment so far; its `OMP_NUM_THREADS` is kept.
    """
    if not is_cpu_build():
        return {}
    threads = max(1, int(processors.available()) - 1)
    variables = {"OMP_NUM_THREADS": current.get("OMP_NUM_THREADS", str(threads))}
    preloaded = current.get("LD_PRELOAD", "")
    spec = importlib.util.find_spec("torch")
    if spec is not None and spec.origin is not None and "gomp" not in preloaded:
        found = sorted(Path(spec.origin).parent.glob("lib/libgomp*.so*"))
        if found:
            variables["LD_PRELOAD"] = f"{preloaded}:{found[0]}" if preloaded else str(found[0])
    return variables
