"""A pod's volumes: made from ConfigMaps and Secrets, scratch space, folders of the machine, also for claims.

Each container has a mount namespace of its own, made by `unshare` and `mount`, so that two pods can mount
different volumes at the same path and the machine sees neither. Where the machine permits no mount namespace
(some containers do not), a container with volumes does not start, and its pod says why.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from knative.local.apiserver.metadata import is_subdomain
from knative.local.kubelet import mount_namespace
from knative.local.kubelet.environment import ContainerConfigError, Lookup, ValueSources
from knative.local.kubelet.mount_namespace import BindMount

_MEMORY = Path("/dev/shm")  # noqa: S108  # where memory-backed files live on Linux
_OF_OBJECTS = frozenset({"configMap", "secret", "projected"})


class Volumes:
    """Makes the volumes of pods and removes them.

    Args:
        folder: where the folders of pods are made, `NAMESPACE/POD/VOLUME`.
        claims: where the folders of PersistentVolumeClaims are, `NAMESPACE/NAME`; never removed.
    """

    def __init__(self, folder: Path, claims: Path) -> None:
        self._folder = folder
        self._claims = claims
        # One for each state folder, so that clearing it does not touch another platform's.
        place = hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:16]
        self._memory = _MEMORY / f"pilotlight-{place}"

    def prepare(
        self,
        namespace: str,
        pod: str,
        container: Mapping[str, Any],
        volumes: Sequence[Mapping[str, Any]],
        sources: ValueSources,
    ) -> list[BindMount]:
        """Make the volumes that a container mounts, or bring them up to date.

        Raises:
            ContainerConfigError: something is missing, is not supported here, or cannot be mounted.
        """
        wanted = container.get("volumeMounts") or []
        if not wanted:
            return []
        if not mount_namespace.permits_mounts():
            raise ContainerConfigError(
                "volumes need a mount namespace, which this machine does not permit (unshare --mount fails)"
            )
        by_name = {volume["name"]: volume for volume in volumes}
        made: dict[str, Path] = {}
        mounts = []
        for mount in wanted:
            name = mount["name"]
            volume = by_name.get(name)
            if volume is None:
                raise ContainerConfigError(f'volumeMount "{name}" has no volume')
            if name not in made:
                kept = self._of_machine(namespace, volume)
                made[name] = kept if kept is not None else self._make(namespace, pod, volume, sources)
            source = _inside(made[name], mount.get("subPath") or ".")
            path = Path(mount["mountPath"])
            _ensure_target(path, source, name)
            mounts.append(BindMount(source, path, bool(mount.get("readOnly"))))
        return mounts

    def refresh(
        self, namespace: str, pod: str, volumes: Sequence[Mapping[str, Any]], sources: ValueSources
    ) -> None:
        """Bring those volumes of a running pod up to date that are made of ConfigMaps and Secrets.

        Raises:
            ContainerConfigError: something is missing that is not optional.
        """
        for volume in volumes:
            made = self._folder / namespace / pod / str(volume["name"])
            if made.is_dir() and _OF_OBJECTS & volume.keys():
                self._make(namespace, pod, volume, sources)

    def remove(self, namespace: str, pod: str) -> None:
        """Remove a pod's volumes; the folders of claims stay."""
        for base in (self._folder, self._memory):
            shutil.rmtree(base / namespace / pod, ignore_errors=True)

    def clear(self) -> None:
        """Remove the volumes of all pods, an earlier platform's included; the folders of claims stay."""
        for base in (self._folder, self._memory):
            shutil.rmtree(base, ignore_errors=True)

    def _of_machine(self, namespace: str, volume: Mapping[str, Any]) -> Path | None:
        """The folder of a volume that outlives its pods; None for another volume."""
        name = str(volume["name"])
        if (claim := volume.get("persistentVolumeClaim")) is not None:
            return self._claim(namespace, name, claim)
        if (host := volume.get("hostPath")) is not None:
            return _host_path(name, host)
        return None

    def _claim(self, namespace: str, volume: str, claim: Mapping[str, Any]) -> Path:
        name = str(claim.get("claimName") or "")
        if not is_subdomain(name):  # admission refuses it, too; it becomes part of a path here
            raise ContainerConfigError(f'volume "{volume}": claimName {name!r} is not a name')
        folder = self._claims / namespace / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _make(
        self,
        namespace: str,
        pod: str,
        volume: Mapping[str, Any],
        sources: ValueSources,
    ) -> Path:
        name = str(volume["name"])
        in_memory = (volume.get("emptyDir") or {}).get("medium") == "Memory"
        if in_memory:
            _make_private(self._memory)
        folder = (self._memory if in_memory else self._folder) / namespace / pod / name
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if "emptyDir" in volume:
            return folder
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
            raise ContainerConfigError(f'volume "{name}": {kinds} is not supported on this platform')
        for path in folder.rglob("*"):
            if path.is_file() and path not in written:
                path.unlink()
        return folder


def _host_path(volume: str, source: Mapping[str, Any]) -> Path:
    """The folder or file of this machine that a volume names, as Kubernetes' kubelet checks it.

    https://kubernetes.io/docs/concepts/storage/volumes/#hostpath-volume-types
    """
    path, kind = Path(str(source.get("path") or "")), str(source.get("type") or "")
    if not path.is_absolute():
        raise ContainerConfigError(f'volume "{volume}": hostPath {path} must be an absolute path')
    try:
        if kind in {"", "DirectoryOrCreate"}:
            if not path.exists():
                path.mkdir(parents=True, mode=0o755)
        elif kind == "FileOrCreate":
            path.touch(mode=0o644)
    except OSError as problem:
        raise ContainerConfigError(
            f'volume "{volume}": hostPath {path} cannot be made: {problem.strerror}'
        ) from problem
    is_right = {
        "Directory": path.is_dir,
        "DirectoryOrCreate": path.is_dir,
        "File": path.is_file,
        "FileOrCreate": path.is_file,
    }
    if kind in is_right and not is_right[kind]():
        raise ContainerConfigError(f'volume "{volume}": hostPath type check failed: {path} is not a {kind}')
    if kind not in {"", *is_right}:
        raise ContainerConfigError(
            f'volume "{volume}": hostPath type {kind} is not supported on this platform'
        )
    return path


def _make_private(folder: Path) -> None:
    """Make a folder that only its owner may use, in one where every user of the machine may write.

    Raises:
        ContainerConfigError: somebody else's folder, or something else, is in its place.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise ContainerConfigError(f"{folder} is not this user's folder; remove it")
    folder.chmod(0o700)


def _fill_part(folder: Path, volume: str, part: Mapping[str, Any], sources: ValueSources) -> set[Path]:
    """Write the files of one source of a projected volume; returns their paths."""
    if (source := part.get("configMap")) is not None:
        return _fill(folder, source, str(source.get("name") or ""), sources.config_maps, "configmap")
    if (source := part.get("secret")) is not None:
        return _fill(folder, source, str(source.get("name") or ""), sources.secrets, "secret")
    raise ContainerConfigError(f'volume "{volume}": {", ".join(part)} cannot be projected on this platform')


def _fill(folder: Path, source: Mapping[str, Any], name: str, lookup: Lookup, kind: str) -> set[Path]:
    """Write the files of a ConfigMap or Secret; returns their paths."""
    found = lookup(name)
    if found is None:
        if source.get("optional"):
            return set()
        raise ContainerConfigError(f'{kind} "{name}" not found')
    try:
        content = {key: _bytes(value, kind) for key, value in (found.get("data") or {}).items()}
        content |= {key: base64.b64decode(value) for key, value in (found.get("binaryData") or {}).items()}
    except ValueError as problem:  # stored before admission checked it
        raise ContainerConfigError(f'{kind} "{name}" holds a value that is not base64') from problem
    chosen = source.get("items")
    if chosen is None:
        chosen = [{"key": key, "path": key} for key in content]
    written = set()
    for item in chosen:
        if item["key"] not in content:
            if source.get("optional"):
                continue
            raise ContainerConfigError(f"couldn't find key {item['key']} in {kind} {name}")
        path = _inside(folder, item["path"])
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = item.get("mode") or source.get("defaultMode") or (0o600 if kind == "secret" else 0o644)
        _replace(path, content[item["key"]], mode)
        written.add(path)
    return written


def _replace(path: Path, content: bytes, mode: int) -> None:
    """Replace a file atomically, if it is another: a container of the pod may be reading it."""
    if path.is_file() and stat.S_IMODE(path.stat().st_mode) == mode and path.read_bytes() == content:
        return
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_bytes(content)
    fresh.chmod(mode)
    fresh.replace(path)


def _bytes(value: str, kind: str) -> bytes:
    return base64.b64decode(value) if kind == "secret" else value.encode()


def _inside(folder: Path, relative: str) -> Path:
    """The path `relative` to a folder; refused if it leads out of it."""
    path = Path(os.path.normpath(folder / relative))
    if not path.is_relative_to(folder):
        raise ContainerConfigError(f"path {relative!r} leads out of its volume")
    return path


def _ensure_target(path: Path, source: Path, name: str) -> None:
    """Create the file or folder that a bind mount needs at its path."""
    if not source.exists():
        source.mkdir(parents=True)
    try:
        if source.is_dir():
            path.mkdir(parents=True, exist_ok=True)
        elif not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    except OSError as problem:
        if os.geteuid() != 0 and path.parts[1:2] and Path(path.root, path.parts[1]).is_dir():
            return  # made inside the container's namespace
        raise ContainerConfigError(
            f'mountPath {path} of volume "{name}" does not exist on this machine and cannot be made: '
            f"{problem.strerror}"
        ) from problem
