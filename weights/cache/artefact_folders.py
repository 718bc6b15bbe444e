"""Folders that are code and are used as they lie: snapshots of processes.

Unlike an archive (`weights.cache.artefact_archives`) a folder is not unpacked. It appears whole, by one
rename, and is counted in the cache's quota and evicted like everything else.

    KIND/NAME/record.json   size and SHA-256 of every file, a signature, and what the folder was made of
    KIND/NAME/...           the files; plain files only, no folders
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from weights.cache.artefact_trust import ArtefactTrust, UntrustedArtefactsError
from weights.cache.cache import Cache
from weights.cache.pruning import FOLDER_KINDS, RECORD_FILE

_CHUNK_BYTES = 16 * 1024 * 1024
"""Part of a file that one thread digests; a file's digest is that of its chunks' digests."""
_THREADS = 4


@dataclasses.dataclass(frozen=True)
class OpenedFolder:
    """A folder whose files may be used.

    Attributes:
        name: for messages.
        path: where the files lie.
        files: size and digest of each.
        made_of: what the folder was made of.
    """

    name: str
    path: Path
    files: Mapping[str, Mapping[str, Any]]
    made_of: Mapping[str, Any]
    verified: bool = False

    def verify(self) -> None:
        """Compare every byte with what was kept, unless that was done; on several threads, 2 GB a second.

        Raises:
            UntrustedArtefactsError: a file was changed or damaged.
        """
        if self.verified:
            return
        digests = file_digests(self.path, list(self.files))
        if wrong := next((file for file in self.files if digests[file] != self.files[file]["sha256"]), None):
            raise UntrustedArtefactsError(f"{self.name}/{wrong} was changed after it was kept")


class ArtefactFolders:
    """The folders of one kind in a weights cache.

    Args:
        cache: the weights cache.
        kind: one of `weights.cache.pruning.FOLDER_KINDS`.
        trust: signs what is kept, and decides what is used; by default this user's own files are.
    """

    def __init__(self, cache: Cache, kind: str, trust: ArtefactTrust | None = None) -> None:
        assert kind in FOLDER_KINDS, kind
        self._cache = cache
        self._kind = kind
        self._trust = trust or ArtefactTrust()
        self._root = cache.root / kind

    def record(self, name: str) -> dict[str, Any] | None:
        """What a folder was made of; None without such a folder. Neither trusted nor verified yet."""
        try:
            content = json.loads((self._root / name / RECORD_FILE).read_bytes())
            made_of = content["made_of"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return made_of if isinstance(made_of, dict) else None

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[OpenedFolder]:
        """A folder whose files may be used.

        With a signing key they are copied to a private folder and verified before this returns. Without one,
        owner and mode have decided, and the caller finds damage by `verify`, beside its own work.

        Raises:
            UntrustedArtefactsError: they may not be used, or differ from what was kept.
            OSError, ValueError, KeyError, TypeError: there is no such folder, or its record is damaged.
        """
        folder = self._root / name
        content = json.loads((folder / RECORD_FILE).read_bytes())
        files: dict[str, dict[str, Any]] = content["files"]
        self._check(name, content, files)
        with contextlib.ExitStack() as stack:
            if self._trust.signs:
                scratch = Path(tempfile.mkdtemp(prefix="pilotlight-"))
                stack.callback(shutil.rmtree, scratch, ignore_errors=True)
                for file in files:
                    shutil.copyfile(folder / file, scratch / file)
                folder = scratch
            opened = OpenedFolder(f"{self._kind}/{name}", folder, files, content["made_of"])
            if self._trust.signs:
                opened.verify()
                opened = dataclasses.replace(opened, verified=True)
            yield opened
        with contextlib.suppress(OSError):  # eviction then goes by an older time of use
            path = self._root / name / RECORD_FILE
            os.utime(path, (self._cache.leases.now(), path.stat().st_mtime))

    def _check(self, name: str, content: dict[str, Any], files: dict[str, dict[str, Any]]) -> None:
        """Check everything but the files' content.

        Raises:
            UntrustedArtefactsError: they may not be used.
        """
        folder = self._root / name
        if any(Path(file).name != file or file == RECORD_FILE for file in files):
            raise UntrustedArtefactsError(f"{self._kind}/{name}: names a file outside of its folder")
        if content["sha256"] != _listing_digest(files, content["made_of"]):
            raise UntrustedArtefactsError(f"{self._kind}/{name}: the record was changed")
        self._trust.check_place(self._cache.root, shared=self._cache.shared)
        statuses = {f"{self._kind}/": self._root.lstat(), f"{self._kind}/{name}/": folder.lstat()}
        statuses |= {f"{self._kind}/{name}/{file}": (folder / file).lstat() for file in (*files, RECORD_FILE)}
        for called, status in statuses.items():
            if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
                raise UntrustedArtefactsError(f"{called} must be a plain file")
        self._trust.check(self._kind, name, content, statuses)
        for file, expected in files.items():
            if statuses[f"{self._kind}/{name}/{file}"].st_size != expected["size"]:
                raise UntrustedArtefactsError(f"{self._kind}/{name}/{file} has another size than it had")

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A private folder on the cache's file system, to be filled and given to `publish`.

        Raises:
            CacheError: the cache cannot be written, or what is written would not be used.
        """
        self._trust.check_place(self._cache.root, shared=self._cache.shared)
        with self._cache.writing():
            folder = Path(tempfile.mkdtemp(dir=self._cache.root / "tmp"))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(self, name: str, folder: Path, made_of: Mapping[str, Any]) -> None:
        """Keep the files of a scratch folder; it takes the place of one of the same name.

        Raises:
            CacheError: the cache cannot be written.
        """
        with self._cache.writing():
            self._trust.prepare(self._root)
            names = sorted(path.name for path in folder.iterdir())
            digests = file_digests(folder, names)
            files = {
                file: {"size": (folder / file).stat().st_size, "sha256": digests[file]} for file in names
            }
            made_of = json.loads(json.dumps(made_of))
            sha256 = _listing_digest(files, made_of)
            content = {
                "sha256": sha256,
                **self._trust.sign(self._kind, name, sha256),
                "files": files,
                "made_of": made_of,
            }
            self._cache.make_room(sum((folder / file).stat().st_size for file in names))
            for file in names:
                (folder / file).chmod(self._trust.file_mode)
            (folder / RECORD_FILE).write_text(json.dumps(content))
            (folder / RECORD_FILE).chmod(self._trust.file_mode)
            folder.chmod(0o700 if self._trust.file_mode == 0o600 else 0o755)
            self.remove(name)
            folder.rename(self._root / name)

    def remove(self, name: str) -> None:
        """Remove a folder, if it is there; it disappears at once."""
        aside = Path(tempfile.mkdtemp(dir=self._cache.root / "tmp"))
        with contextlib.suppress(OSError):
            (self._root / name).rename(aside / name)
        shutil.rmtree(aside, ignore_errors=True)


def file_digests(folder: Path, files: Sequence[str]) -> dict[str, str]:
    """SHA-256 over the SHA-256 digests of each file's chunks of 16 MiB, hexadecimal, by name."""

    def chunk(job: tuple[str, int]) -> bytes:
        name, offset = job
        with (folder / name).open("rb", buffering=0) as file:
            file.seek(offset)
            return hashlib.sha256(file.read(_CHUNK_BYTES)).digest()

    jobs = [
        (name, offset)
        for name in files
        for offset in range(0, max(1, (folder / name).stat().st_size), _CHUNK_BYTES)
    ]
    with ThreadPoolExecutor(_THREADS, "artefact-digests") as pool:
        digests = list(pool.map(chunk, jobs))
    totals = {name: hashlib.sha256() for name in files}
    for (name, _), digest in zip(jobs, digests, strict=True):
        totals[name].update(digest)
    return {name: total.hexdigest() for name, total in totals.items()}


def _listing_digest(files: Mapping[str, Any], made_of: Mapping[str, Any]) -> str:
    text = json.dumps({"files": files, "made_of": made_of}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
