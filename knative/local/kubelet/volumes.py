"""Volumes of a replica: folders made from ConfigMaps and Secrets, scratch space, host folders for claims.

A process sees them at their mountPath through a mount namespace of its own, so two replicas can mount
different things at the same path and the machine sees neither. `unshare` and `mount` do it; without the right
to a mount namespace (some containers forbid it) the replica says so instead of starting without its files.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from knative.local.kubelet.environment import ConfigError, Fields, Lookup, Sources

_MEMORY = Path("/dev/shm")  # noqa: S108  # where memory-backed files live on Linux
_BIND = """
set -e
while [ "$1" != "--" ]; do
  mount --bind "$1" "$2"
  if [ "$3" = ro ]; then mount -o remount,bind,ro "$2"; fi
  shift 3
done
shift
exec "$@"
"""


@dataclass(frozen=True, slots=True)
class Mount:
    """One folder or file, and where the replica sees it."""

    source: Path
    path: Path
    read_only: bool


@cache
def _namespace() -> tuple[str, ...]:
    """The words that give a process a mount namespace of its own; empty if that isn't permitted."""
    unshare = shutil.which("unshare")
    if unshare is None or shutil.which("mount") is None:
        return ()
    words = [unshare, "--mount", "--propagation", "private"]
    if os.geteuid() != 0:
        words.append("--map-root-user")
    probe = subprocess.run([*words, "true"], check=False, capture_output=True)  # noqa: S603  # fixed words
    return (*words, "--") if probe.returncode == 0 else ()


def prefix(mounts: Sequence[Mount]) -> tuple[str, ...]:
    """What stands before a program's own words so that it sees `mounts`."""
    if not mounts:
        return ()
    words: list[str] = []
    for mount in mounts:
        words += [str(mount.source), str(mount.path), "ro" if mount.read_only else "rw"]
    return (*_namespace(), "sh", "-c", _BIND, "sh", *words, "--")


_CHANGE_FOLDER = 'cd "$1" && shift && exec "$@"'


def entered(pid: int, folder: Path) -> tuple[str, ...]:
    """What stands before a program's words so that it sees what a process with volumes sees, in `folder`."""
    nsenter = shutil.which("nsenter")
    if nsenter is None:
        return ()
    # Without root's rights the process has a user namespace too, in which alone it may be joined.
    users = () if os.geteuid() == 0 else ("--user", "--preserve-credentials")
    return (
        nsenter,
        "--target",
        str(pid),
        "--mount",
        *users,
        "--",
        "sh",
        "-c",
        _CHANGE_FOLDER,
        "sh",
        str(folder),
    )


class Volumes:
    """Makes a replica's volumes and removes them.

    Args:
        folder: where folders made from ConfigMaps and the like are kept, one for each replica.
        claims: where the folders of PersistentVolumeClaims are, `NAMESPACE/NAME`; kept for good.
    """

    def __init__(self, folder: Path, claims: Path) -> None:
        self._folder = folder
        self._claims = claims
        # One for each state folder, so that it can be cleared without touching another platform's.
        place = hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:16]
        self._memory = _MEMORY / f"pilotlight-{place}"

    def prepare(
        self,
        namespace: str,
        pod: str,
        container: Mapping[str, Any],
        volumes: Sequence[Mapping[str, Any]],
        sources: Sources,
    ) -> list[Mount]:
        """Make what a container mounts of its pod's `volumes`; what is there already is brought up to date.

        Raises:
            ConfigError: something is missing, isn't supported here, or can't be mounted.
        """
        wanted = container.get("volumeMounts") or []
        if not wanted:
            return []
        if not _namespace():
            raise ConfigError(
                "volumes need a mount namespace, which this machine doesn't permit (unshare --mount fails)"
            )
        by_name = {volume["name"]: volume for volume in volumes}
        made: dict[str, Path] = {}
        mounts = []
        for mount in wanted:
            name = mount["name"]
            volume = by_name.get(name)
            if volume is None:
                raise ConfigError(f'volumeMount "{name}" has no volume')
            if name not in made:
                made[name] = self._make(namespace, pod, volume, sources)
            source = _inside(made[name], mount.get("subPath") or ".")
            path = Path(mount["mountPath"])
            _ensure_target(path, source, name)
            mounts.append(Mount(source, path, bool(mount.get("readOnly"))))
        return mounts

    def remove(self, namespace: str, pod: str) -> None:
        """Remove what `prepare` made; claims stay."""
        for base in (self._folder, self._memory):
            shutil.rmtree(base / namespace / pod, ignore_errors=True)

    def clear(self) -> None:
        """Remove what all replicas had, an earlier platform's included; claims stay."""
        for base in (self._folder, self._memory):
            shutil.rmtree(base, ignore_errors=True)

    def _make(
        self,
        namespace: str,
        pod: str,
        volume: Mapping[str, Any],
        sources: Sources,
    ) -> Path:
        name = str(volume["name"])
        if (claim := volume.get("persistentVolumeClaim")) is not None:
            folder: Path = self._claims / namespace / str(claim.get("claimName") or name)
            folder.mkdir(parents=True, exist_ok=True)
            return folder
        in_memory = (volume.get("emptyDir") or {}).get("medium") == "Memory"
        folder = (self._memory if in_memory else self._folder) / namespace / pod / name
        if "emptyDir" in volume:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            return folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        written: set[Path] = set()
        if (source := volume.get("configMap")) is not None:
            written |= _fill(folder, source, str(source.get("name") or ""), sources.config_maps, "configmap")
        elif (source := volume.get("secret")) is not None:
            written |= _fill(folder, source, str(source.get("secretName") or ""), sources.secrets, "secret")
        elif (projected := volume.get("projected")) is not None:
            for part in projected.get("sources") or ():
                written |= _fill_part(folder, name, part, sources)
        else:
            kinds = ", ".join(key for key in volume if key != "name")
            raise ConfigError(f'volume "{name}": {kinds} is not supported on this platform')
        for path in folder.rglob("*"):
            if path.is_file() and path not in written:
                path.unlink()
        return folder


def _fill_part(folder: Path, volume: str, part: Mapping[str, Any], sources: Sources) -> set[Path]:
    """Write the files of one source of a projected volume; returns which."""
    if (source := part.get("configMap")) is not None:
        return _fill(folder, source, str(source.get("name") or ""), sources.config_maps, "configmap")
    if (source := part.get("secret")) is not None:
        return _fill(folder, source, str(source.get("name") or ""), sources.secrets, "secret")
    if (source := part.get("downwardAPI")) is not None:
        return _fill_fields(folder, source, sources.fields)
    raise ConfigError(f'volume "{volume}": {", ".join(part)} cannot be projected on this platform')


def _fill(folder: Path, source: Mapping[str, Any], name: str, lookup: Lookup, kind: str) -> set[Path]:
    """Write the files of a ConfigMap or Secret; returns which."""
    found = lookup(name)
    if found is None:
        if source.get("optional"):
            return set()
        raise ConfigError(f'{kind} "{name}" not found')
    content = {key: _bytes(value, kind) for key, value in (found.get("data") or {}).items()}
    content |= {key: base64.b64decode(value) for key, value in (found.get("binaryData") or {}).items()}
    chosen = source.get("items")
    if chosen is None:
        chosen = [{"key": key, "path": key} for key in content]
    written = set()
    for item in chosen:
        if item["key"] not in content:
            if source.get("optional"):
                continue
            raise ConfigError(f"couldn't find key {item['key']} in {kind} {name}")
        path = _inside(folder, item["path"])
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = item.get("mode") or source.get("defaultMode") or (0o600 if kind == "secret" else 0o644)
        _replace(path, content[item["key"]], mode)
        written.add(path)
    return written


def _fill_fields(folder: Path, source: Mapping[str, Any], fields: Fields) -> set[Path]:
    """Write what the pod is told of itself; returns which files."""
    written = set()
    for item in source.get("items") or ():
        path = _inside(folder, item["path"])
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, (fields(item) or "").encode(), item.get("mode") or 0o644)
        written.add(path)
    return written


def _replace(path: Path, content: bytes, mode: int) -> None:
    """Write a file at once: another container of the pod may be reading it."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_bytes(content)
    fresh.chmod(mode)
    fresh.replace(path)


def _bytes(value: str, kind: str) -> bytes:
    return base64.b64decode(value) if kind == "secret" else value.encode()


def _inside(folder: Path, relative: str) -> Path:
    """A path within `folder`; one that leads out of it is refused."""
    path = Path(os.path.normpath(folder / relative))
    if not path.is_relative_to(folder):
        raise ConfigError(f"path {relative!r} leads out of its volume")
    return path


def _ensure_target(path: Path, source: Path, name: str) -> None:
    """A mount needs something to be mounted on."""
    if not source.exists():
        source.mkdir(parents=True)
    try:
        if source.is_dir():
            path.mkdir(parents=True, exist_ok=True)
        elif not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    except OSError as problem:
        raise ConfigError(
            f'mountPath {path} of volume "{name}" does not exist on this machine and cannot be made: '
            f"{problem.strerror}"
        ) from problem
