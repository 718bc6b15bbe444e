"""What a snapshot of the template process fits: everything that its memory depends on."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

_READ_AT_IMPORT = re.compile(
    r"(VLLM|TORCH|PYTORCH|HF|HUGGINGFACE|TRANSFORMERS|TOKENIZERS|OMP|MKL|KMP|GOMP|OPENBLAS|CUDA|NVIDIA|NCCL|ROCM|HIP"
    r"|TRITON|XLA|PYTHON|LD|MALLOC|GLIBC|XDG|LC|SSL)_?[A-Z0-9_]*|HOME|PATH|LANG|TZ"
)
"""Variables that Python, the C library, torch and vLLM read when they are loaded."""
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL")


@dataclasses.dataclass(frozen=True)
class SnapshotIdentity:
    """Everything that tells the memory of one template process from that of another."""

    engine: str
    """Name and version of vLLM's distribution."""
    python: str
    """Version and build of the interpreter."""
    executable: str
    kernel: str
    """Release and build of the kernel, whose vDSO is mapped into the process."""
    processor: str
    """Model, and a digest of the features that libraries choose their code by."""
    processors: int
    """Number that the process may use, by which OpenMP sizes its thread pool when it is loaded."""
    user: int
    model: str
    """URI of the model, whose architecture is imported too."""
    environment: Mapping[str, str]
    """The variables that are read during the import."""

    @property
    def name(self) -> str:
        """A name for the identity: equal identities have equal names."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def import_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The part of an environment that is read during the import, without anything that may be a secret.

    A process that is to be written to disk gets only this.
    """
    return {
        name: value
        for name, value in sorted(environment.items())
        if _READ_AT_IMPORT.fullmatch(name) and not _SECRET.search(name)
    }


def identity_here(*, engine: str, model: str, environment: Mapping[str, str]) -> SnapshotIdentity:
    """The identity of a template process that this process would start now.

    Args:
        engine: name and version of vLLM's distribution.
        model: URI of the model.
        environment: of the template process.
    """
    system = os.uname()
    return SnapshotIdentity(
        engine=engine,
        python=sys.version,
        executable=sys.executable,
        kernel=f"{system.release} {system.version}",
        processor=_processor(),
        processors=len(os.sched_getaffinity(0)),
        user=os.geteuid(),
        model=model,
        environment=import_environment(environment),
    )


def file_versions(paths: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Size in bytes and modification time in nanoseconds of these files; files that are gone are left out."""
    versions = {}
    for path in sorted(set(paths)):
        with contextlib.suppress(OSError):
            status = os.stat(path)  # noqa: PTH116 - thousands of files, before the first token
            versions[path] = (status.st_size, status.st_mtime_ns)
    return versions


def first_changed_file(versions: Mapping[str, Iterable[int]]) -> str | None:
    """The first file that is gone or has another size or modification time; None if all are as they were."""
    for path, version in versions.items():
        try:
            status = os.stat(path)  # noqa: PTH116 - see above
        except OSError:
            return path
        if [status.st_size, status.st_mtime_ns] != list(version):
            return path
    return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
    except OSError:
        return platform.machine()
    facts = {}
    for line in lines:
        name, _, value = line.partition(":")
        facts[name.strip()] = value.strip()
    features = facts.get("flags") or facts.get("Features") or ""
    model = facts.get("model name") or facts.get("CPU part") or platform.machine()
    return f"{model} {hashlib.sha256(features.encode()).hexdigest()[:12]}"
