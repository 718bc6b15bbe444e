"""Where the folders of a pod's volumes are."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from knative.local.kubelet.environment import ContainerConfigError, ValueSources
from knative.local.kubelet.volumes import Volumes

SOURCES = ValueSources({"cm": {"data": {"a": "1"}}, "odd": {"binaryData": {"a": "x"}}}.get, {}.get)


def prepared(tmp_path: Path, volume: dict, **mount):
    volumes = Volumes(tmp_path / "volumes", tmp_path / "claims")
    container = {"volumeMounts": [{"name": "v", "mountPath": str(tmp_path / "seen"), **mount}]}
    try:
        (found,) = volumes.prepare("team", "pod", container, [{"name": "v", **volume}], SOURCES)
    finally:
        volumes.clear()
    return found.source.relative_to(tmp_path)


def test_a_claim_is_a_folder_of_its_namespace(tmp_path):
    claim = {"persistentVolumeClaim": {"claimName": "models.v1"}}
    assert prepared(tmp_path, claim) == Path("claims/team/models.v1")
    assert prepared(tmp_path, claim, subPath="in/here") == Path("claims/team/models.v1/in/here")


@pytest.mark.parametrize("name", ["../../etc", "..", ".", "/etc", "a/b", "", "A" * 300, "a\n"])
def test_a_claim_whose_name_is_no_name_makes_no_folder(tmp_path, name):
    with pytest.raises(ContainerConfigError, match="is not a name"):
        prepared(tmp_path, {"persistentVolumeClaim": {"claimName": name}})
    assert not (tmp_path / "claims").exists()


def test_a_value_that_is_not_base64_is_named(tmp_path):
    with pytest.raises(ContainerConfigError, match='configmap "odd" holds a value that is not base64'):
        prepared(tmp_path, {"configMap": {"name": "odd"}})


@pytest.mark.parametrize("trap", ["file", "link"])
def test_memory_is_not_shared_with_what_another_user_has_put_in_its_place(tmp_path, monkeypatch, trap):
    monkeypatch.setattr("knative.local.kubelet.volumes._MEMORY", tmp_path)
    volumes = Volumes(tmp_path / "volumes", tmp_path / "claims")
    place = volumes._memory
    place.touch() if trap == "file" else place.symlink_to(tmp_path)
    container = {"volumeMounts": [{"name": "v", "mountPath": str(tmp_path / "seen")}]}
    volume = {"name": "v", "emptyDir": {"medium": "Memory"}}
    with pytest.raises((ContainerConfigError, FileExistsError)):
        volumes.prepare("team", "pod", container, [volume], SOURCES)
    place.unlink()
    (mount,) = volumes.prepare("team", "pod", container, [volume], SOURCES)
    assert mount.source.is_relative_to(place)
    assert place.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("volume", "mount"),
    [
        ({"emptyDir": {}}, {"subPath": "../other"}),
        ({"configMap": {"name": "cm", "items": [{"key": "a", "path": "../a"}]}}, {}),
        ({"configMap": {"name": "cm", "items": [{"key": "a", "path": "/etc/a"}]}}, {}),
    ],
)
def test_a_path_that_leads_out_of_its_volume_is_refused(tmp_path, volume, mount):
    with pytest.raises(ContainerConfigError, match="leads out of its volume"):
        prepared(tmp_path, volume, **mount)


def mounted_host_path(tmp_path, path, kind=""):
    volumes = Volumes(tmp_path / "volumes", tmp_path / "claims")
    source = {"path": str(path)} | ({"type": kind} if kind else {})
    container = {"volumeMounts": [{"name": "nvme", "mountPath": str(tmp_path / "mount")}]}
    (mount,) = volumes.prepare("team", "pod", container, [{"name": "nvme", "hostPath": source}], SOURCES)
    volumes.remove("team", "pod")
    volumes.clear()
    return mount.source


@pytest.mark.parametrize("kind", ["", "DirectoryOrCreate"])
def test_a_host_path_is_that_folder_of_the_machine_and_stays(tmp_path, kind):
    folder = tmp_path / "nvme" / "weights"
    assert mounted_host_path(tmp_path, folder, kind) == folder
    assert folder.is_dir()
    (folder / "kept").write_text("x")
    assert mounted_host_path(tmp_path, folder, kind) == folder
    assert (folder / "kept").read_text() == "x"


@pytest.mark.parametrize(
    ("path", "kind", "says"),
    [
        ("none", "Directory", "hostPath type check failed: .* is not a Directory"),
        ("file", "DirectoryOrCreate", "cannot be made|is not a Directory"),
        ("none", "File", "is not a File"),
        ("none", "Socket", "hostPath type Socket is not supported on this platform"),
    ],
)
def test_a_host_path_of_another_type_keeps_the_container_from_starting(tmp_path, path, kind, says):
    (tmp_path / "file").write_text("")
    with pytest.raises(ContainerConfigError, match=says):
        mounted_host_path(tmp_path, tmp_path / path, kind)


AS_A_USER = """
import subprocess, sys
from pathlib import Path
from knative.local.kubelet.environment import ValueSources
from knative.local.kubelet.mount_namespace import wrapper
from knative.local.kubelet.volumes import Volumes

folder, target = Path(sys.argv[1]), sys.argv[2]
secret = {"data": {"ci": "c2VjcmV0"}}
mount = {"name": "keys", "mountPath": target, "readOnly": True}
mounts = Volumes(folder / "v", folder / "c").prepare(
    "team", "pod", {"volumeMounts": [mount]}, [{"name": "keys", "secret": {"secretName": "keys"}}],
    ValueSources({}.get, {"keys": secret}.get),
)
look = f"cat {target}/ci; ls -d /var/run/* | wc -l; touch {target}/x 2>/dev/null || echo read-only"
print(subprocess.run([*wrapper(mounts), "sh", "-c", look], capture_output=True, text=True))
"""


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root, to become a user"
)
def test_a_user_without_rights_mounts_where_only_root_could_make_the_path():
    target = "/var/run/pilotlight-of-a-test/keys"
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        as_user = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
        command = [*as_user, sys.executable, "-c", AS_A_USER, folder, target]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3]
        )
        left = len(list(Path("/var/run").iterdir()))
    assert "secret" in done.stdout, done.stdout + done.stderr
    assert f"secret{left + 1}\\nread-only" in done.stdout, "the entries that were there, and the new one"
    assert not Path(target).parent.exists(), "the machine sees none of it"
