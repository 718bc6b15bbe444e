"""Runs the container of a rendered pod as a kubelet would: its user, a read-only root, and its volumes.

There is no image: the root is this machine's, seen read-only through a mount namespace. Needs root's rights.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

UID = 10001
"""The user of the image (Dockerfile)."""
REPOSITORY = Path(__file__).parents[2]

# Arguments: the new root; then -t FOLDER for a tmpfs, -b SOURCE TARGET for a bind mount; then -- and the command.
# What is mounted later lies over what was mounted earlier; nothing but the volumes can be written.
_SCRIPT = """
set -e
root=$1; shift
mount --bind / "$root"
mount -o remount,bind,ro "$root"
for folder in proc sys dev; do mount --rbind "/$folder" "$root/$folder"; done
folders=
while [ "$1" != "--" ]; do
  case $1 in
    -t) mount -t tmpfs -o mode=755 tmpfs "$root$2"; folders="$folders $2"; shift 2 ;;
    -b) mkdir -p "$root$3"; mount --bind "$2" "$root$3"; shift 3 ;;
  esac
done
shift
for folder in $folders; do mount -o remount,ro "$root$folder"; done
cd "$root"
exec chroot "$root" setpriv --reuid UID --regid UID --clear-groups --no-new-privs --inh-caps=-all \
  --bounding-set=-all -- "$@"
""".replace("UID", str(UID))


def _closed(path: Path) -> Path | None:
    """The topmost folder on the way to `path` that other users may not enter."""
    for folder in reversed([path, *path.parents]):
        if not folder.stat().st_mode & 0o001:
            return folder
    return None


@contextlib.contextmanager
def running(
    pod: Mapping[str, Any], volumes: Mapping[str, Path], folder: Path, port: int
) -> Iterator[subprocess.Popen[bytes]]:
    """Run the only container of a pod for as long as the block lasts.

    Args:
        pod: the spec of a rendered Revision's pod.
        volumes: the folder of each volume by name.
        folder: for the root and the log, `container.log`.
        port: what Knative puts into PORT.
    """
    (container,) = pod["containers"]
    security = container["securityContext"]
    assert (security["runAsNonRoot"], security["readOnlyRootFilesystem"]) == (True, True)
    root = folder / "root"
    root.mkdir()
    needed = [Path(sys.base_prefix), Path(sys.prefix), REPOSITORY]
    mounts: list[str] = []
    closed = {place for path in needed if (place := _closed(path)) is not None}
    parents = {str(Path(mount["mountPath"]).parent) for mount in container["volumeMounts"]} - {"/"}
    for place in sorted({*map(str, closed), *parents}):
        mounts += ["-t", place]
    for path in needed:
        if _closed(path) is not None:
            mounts += ["-b", str(path), str(path)]
    for mount in container["volumeMounts"]:
        source = volumes[mount["name"]]
        os.chown(source, UID, UID)
        mounts += ["-b", str(source), mount["mountPath"]]
    env = {item["name"]: item["value"] for item in container["env"]}
    env |= {
        "PATH": "/usr/bin:/bin",
        "PORT": str(port),
        "K_SERVICE": "generate-chat",
        "PILOTLIGHT_HOST": "127.0.0.1",
    }
    assert container["command"][0] == "python"
    command = [sys.executable, *container["command"][1:], *container["args"]]
    namespace = ["unshare", "--mount", "--propagation", "private", "--", "sh", "-c", _SCRIPT, "sh"]
    clean = ["env", "-i", *(f"{key}={value}" for key, value in env.items())]
    inside = ["sh", "-c", f'cd {REPOSITORY} && exec "$@"', "sh", *command]
    with (folder / "container.log").open("wb") as log:
        process = subprocess.Popen(
            [*namespace, str(root), *mounts, "--", *clean, *inside],
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
