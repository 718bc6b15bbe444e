"""A mount namespace for each container with volumes, made by `unshare` and `mount`.

Without root's rights the namespace belongs to a user namespace, which permits mounts and changes no file of
the machine. A mount path that does not exist there, such as one below /var/run, is made inside: the folder in
which it is missing gets a stand-in in memory with the same entries, which this container alone sees.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_BIND = """
set -e
make_target() {
  parent=$(dirname "$1")
  while [ ! -d "$parent" ]; do parent=$(dirname "$parent"); done
  parent=$(readlink -f "$parent")
  if ! [ -w "$parent" ] && [ "$parent" != / ]; then
    standin=$(mktemp -d)
    mount -n -t tmpfs -o mode=755 pilotlight "$standin"
    for entry in "$parent"/* "$parent"/.[!.]*; do
      name="$standin/${entry##*/}"
      if [ -L "$entry" ]; then cp -P "$entry" "$name"
      elif [ -d "$entry" ]; then mkdir "$name"; mount -n --rbind "$entry" "$name"
      elif [ -e "$entry" ]; then : > "$name"; mount -n --bind "$entry" "$name"
      fi
    done
    mount -n --move "$standin" "$parent"
    rmdir "$standin"
  fi
  if [ -d "$2" ]; then mkdir -p "$1"; else mkdir -p "$(dirname "$1")"; : > "$1"; fi
}
while [ "$1" != "--" ]; do
  [ -e "$2" ] || make_target "$2" "$1"
  mount -n --bind "$1" "$2"
  if [ "$3" = ro ]; then mount -n -o remount,bind,ro "$2"; fi
  shift 3
done
shift
exec "$@"
"""
_CHANGE_FOLDER = 'cd "$1" && shift && exec "$@"'


@dataclass(frozen=True, slots=True)
class BindMount:
    """A folder or file, and the path at which the container sees it."""

    source: Path
    path: Path
    read_only: bool


@cache
def command_prefix() -> tuple[str, ...]:
    """The command prefix that makes a mount namespace; empty if that is not permitted."""
    unshare = shutil.which("unshare")
    if unshare is None or shutil.which("mount") is None:
        return ()
    prefix = [unshare, "--mount", "--propagation", "private"]
    if os.geteuid() != 0:
        prefix.append("--map-root-user")
    probe = subprocess.run([*prefix, "true"], check=False, capture_output=True)  # noqa: S603  # a fixed command
    return (*prefix, "--") if probe.returncode == 0 else ()


def permits_mounts() -> bool:
    """Whether this machine lets containers have volumes."""
    return bool(command_prefix())


def wrapper(mounts: Sequence[BindMount]) -> tuple[str, ...]:
    """The command prefix that runs a container with these mounts."""
    if not mounts:
        return ()
    return (*command_prefix(), "sh", "-c", _BIND, "sh", *_arguments(mounts), "--")


def bind_command(mounts: Sequence[BindMount]) -> tuple[str, ...]:
    """The command that makes these mounts in the mount namespace it runs in, which is its caller's own."""
    if not mounts:
        return ()
    private = 'mount -n --make-rprivate / && exec sh -c "$@"'
    return ("sh", "-c", private, "sh", _BIND, "sh", *_arguments(mounts), "--", "true")


def _arguments(mounts: Sequence[BindMount]) -> list[str]:
    return [
        text
        for mount in mounts
        for text in (str(mount.source), str(mount.path), "ro" if mount.read_only else "rw")
    ]


def enter(pid: int, folder: Path) -> tuple[str, ...]:
    """The command prefix that runs a program in `folder` and in the mount namespace of a process."""
    nsenter = shutil.which("nsenter")
    if nsenter is None:
        return ()
    # Without root's rights the process has a user namespace too, which must be entered first.
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
