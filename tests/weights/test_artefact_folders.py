"""Folders of artefacts are used only whole, unchanged, and from whom they may come."""

import json
import os
import time

import pytest

from weights.cache.artefact_folders import ArtefactFolders
from weights.cache.artefact_trust import ArtefactTrust, UntrustedArtefactsError
from weights.cache.cache import Cache
from weights.cache.inventory import take_inventory
from weights.errors import CacheError

PAGES = os.urandom(40 * 1024 * 1024)  # several chunks


@pytest.fixture
def cache(tmp_path):
    cache = Cache(tmp_path / "cache")
    yield cache
    cache.close()


def keep(cache, trust=None, name="n"):
    folders = ArtefactFolders(cache, "snapshots", trust)
    with folders.scratch() as scratch:
        (scratch / "images").mkdir()
        (scratch / "images/pages.img").write_bytes(PAGES)
        (scratch / "images/core.img").write_bytes(b"core")
        folders.publish(name, scratch / "images", {"pipe": "pipe:[1]"})
    return folders


def use(folders, name="n"):
    with folders.opened(name) as opened:
        opened.verify()
        return (opened.path / "pages.img").read_bytes()


@pytest.mark.parametrize("trust", [None, ArtefactTrust(b"key")])
def test_what_was_kept_is_used_as_it_was(cache, trust):
    folders = keep(cache, trust)
    assert use(folders) == PAGES
    assert folders.record("n") == {"pipe": "pipe:[1]"}
    assert folders.record("other") is None
    assert list((cache.root / "tmp").iterdir()) == [], "no scratch is left"


def flip(path):
    with path.open("r+b") as file:
        file.seek(30 * 1024 * 1024)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


def truncate(path):
    with path.open("r+b") as file:
        file.truncate(1000)


def link(path):
    other = path.parent.parent / "elsewhere"
    path.rename(other)
    path.symlink_to(other)


@pytest.mark.parametrize("trust", [None, ArtefactTrust(b"key")])
@pytest.mark.parametrize(
    ("damage", "message"),
    [(flip, "was changed after"), (truncate, "another size"), (link, "must be a plain file")],
)
def test_a_damaged_folder_is_refused_by_name(cache, trust, damage, message):
    folders = keep(cache, trust)
    damage(cache.root / "snapshots/n/pages.img")
    with pytest.raises(UntrustedArtefactsError, match=message) as caught:
        use(folders)
    assert "snapshots/n/pages.img" in str(caught.value)


def edit(folder, **changes):
    path = folder / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_changed_record_is_refused(cache):
    folders = keep(cache)
    edit(cache.root / "snapshots/n", made_of={"pipe": "pipe:[2]"})
    with pytest.raises(UntrustedArtefactsError, match="the record was changed"):
        use(folders)


def test_a_record_that_names_files_elsewhere_is_refused(cache):
    folders = keep(cache)
    edit(cache.root / "snapshots/n", files={"../../blobs/x": {"size": 1, "sha256": ""}})
    with pytest.raises(UntrustedArtefactsError, match="outside of its folder"):
        use(folders)


@pytest.mark.parametrize("signed_with", [None, b"another key"])
def test_with_a_key_only_its_signature_counts(cache, signed_with):
    keep(cache, None if signed_with is None else ArtefactTrust(signed_with))
    with pytest.raises(UntrustedArtefactsError, match="signature"):
        use(ArtefactFolders(cache, "snapshots", ArtefactTrust(b"key")))


@pytest.mark.parametrize("which", ["", "n", "n/pages.img", "n/record.json"])
def test_without_a_key_what_others_may_write_is_refused(cache, which):
    folders = keep(cache)
    path = cache.root / "snapshots" / which
    path.chmod(path.stat().st_mode | 0o022)
    with pytest.raises(UntrustedArtefactsError, match="must not be writable by others"):
        use(folders)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")
def test_without_a_key_what_belongs_to_another_user_is_refused(cache):
    folders = keep(cache)
    os.chown(cache.root / "snapshots/n/pages.img", 10001, 10001)
    with pytest.raises(UntrustedArtefactsError, match="belongs to user 10001"):
        use(folders)


def test_a_signed_folder_is_used_from_a_private_copy(cache):
    """What other nodes may still write is not what is used."""
    folders = keep(cache, ArtefactTrust(b"key"))
    with folders.opened("n") as opened:
        flip(cache.root / "snapshots/n/pages.img")
        assert (opened.path / "pages.img").read_bytes() == PAGES
        copy = opened.path
    assert not copy.exists()


def test_without_a_key_nothing_is_kept_where_other_nodes_may_write(cache):
    cache.shared = True  # as if it were mounted from a file server
    with pytest.raises(CacheError, match="file system that other nodes may write"):
        keep(cache)


def test_folders_count_in_the_quota_and_are_evicted_by_their_last_use(cache):
    for age, name in ((30, "old"), (20, "older")):
        keep(cache, name=name)
        record = cache.root / "snapshots" / name / "record.json"
        os.utime(record, (time.time() - age, time.time() - age))
    use(ArtefactFolders(cache, "snapshots"), "old")
    assert take_inventory(cache.root).archive_bytes > 2 * len(PAGES)
    pruned = cache.prune(len(PAGES) + 100_000)
    assert pruned.removed == ("snapshots/older",)
    assert [path.name for path in (cache.root / "snapshots").iterdir()] == ["old"]


def test_a_second_publication_takes_the_place_of_the_first(cache):
    folders = keep(cache)
    with folders.scratch() as scratch:
        (scratch / "images").mkdir()
        (scratch / "images/pages.img").write_bytes(b"new")
        folders.publish("n", scratch / "images", {})
    assert use(folders) == b"new"
