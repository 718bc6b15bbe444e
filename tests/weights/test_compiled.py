"""Compiled artefacts come back for the same key, and only whole."""

import dataclasses
import json
import os
import time

import pytest

from weights.cache.artefact_archives import ArtefactArchives
from weights.cache.artefact_trust import ArtefactTrust, UntrustedArtefactsError
from weights.cache.cache import Cache
from weights.cache.compiled import CompileCache, CompileKey, model_digest
from weights.cache.inventory import take_inventory
from weights.manifest import FileEntry, Manifest

KEY = CompileKey("m", "vllm 0.32.0", "cpu", {"max-model-len": 1024})


@pytest.fixture
def kept(tmp_path):
    cache = Cache(tmp_path / "cache")
    yield CompileCache(cache)
    cache.close()


@pytest.fixture
def produced(tmp_path):
    folder = tmp_path / "vllm"
    for name, content in {
        "torch_compile_cache/ab/graph.py": "code",
        "inductor/x.so": "\x7fELF",
        "assets/m": "download",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def test_what_was_saved_comes_back_without_the_downloads(kept, produced, tmp_path):
    assert kept.save(KEY, produced)
    assert kept.restore(KEY, tmp_path / "fresh") == 8
    assert (tmp_path / "fresh/torch_compile_cache/ab/graph.py").read_text() == "code"
    assert not (tmp_path / "fresh/assets").exists()
    assert sorted(path.name for path in (tmp_path / "fresh").iterdir()) == ["inductor", "torch_compile_cache"]


def test_saving_the_same_again_writes_nothing(kept, produced):
    assert kept.save(KEY, produced)
    assert not kept.save(KEY, produced)
    (produced / "inductor/more.so").write_text("new")
    assert kept.save(KEY, produced)


@pytest.mark.parametrize("field", ["model", "engine", "device", "arguments"])
def test_another_key_finds_nothing(kept, produced, tmp_path, field):
    kept.save(KEY, produced)
    other = dataclasses.replace(KEY, **{field: {"x": 1} if field == "arguments" else "other"})
    assert kept.restore(other, tmp_path / "fresh") is None


def test_a_damaged_archive_is_removed_and_never_unpacked(kept, produced, tmp_path):
    kept.save(KEY, produced)
    (archive,) = (tmp_path / "cache/compiled").glob("*.tar")
    with archive.open("rb+") as file:
        file.seek(600)
        file.write(b"evil")
    assert kept.restore(KEY, tmp_path / "fresh") is None
    assert not archive.exists()
    assert not list((tmp_path / "fresh").glob("**/*.py"))


def test_what_is_there_already_stays(kept, produced, tmp_path):
    kept.save(KEY, produced)
    (tmp_path / "fresh/inductor").mkdir(parents=True)
    (tmp_path / "fresh/inductor/x.so").write_text("newer")
    kept.restore(KEY, tmp_path / "fresh")
    assert (tmp_path / "fresh/inductor/x.so").read_text() == "newer"


def test_nothing_is_saved_of_an_empty_folder(kept, tmp_path):
    (tmp_path / "empty").mkdir()
    assert not kept.save(KEY, tmp_path / "empty")


@pytest.mark.parametrize(
    ("writer", "reader", "says"),
    [
        (None, None, None),
        (b"key", b"key", None),
        (None, b"key", "has no signature"),
        (b"other", b"key", "has a signature of another key"),
    ],
)
def test_with_a_signing_key_only_its_signature_counts(tmp_path, produced, writer, reader, says):
    root = tmp_path / "shared"
    CompileCache(Cache(root), ArtefactTrust(writer)).save(KEY, produced)
    restoring = CompileCache(Cache(root), ArtefactTrust(reader))
    if says is None:
        assert restoring.restore(KEY, tmp_path / "fresh") == 8
        return
    with pytest.raises(UntrustedArtefactsError, match=says):
        restoring.restore(KEY, tmp_path / "fresh")
    assert not (tmp_path / "fresh").exists()


def test_a_signature_is_of_one_key_and_one_archive(tmp_path, produced):
    root = tmp_path / "shared"
    trust = ArtefactTrust(b"key")
    other = dataclasses.replace(KEY, engine="vllm 0.33.0")
    CompileCache(Cache(root), trust).save(KEY, produced)
    for path in (root / "compiled").iterdir():
        path.rename(path.with_name(other.name + path.suffix))
    with pytest.raises(UntrustedArtefactsError, match="of another key"):
        CompileCache(Cache(root), trust).restore(other, tmp_path / "fresh")


def test_with_a_signing_key_it_does_not_matter_who_wrote_them(tmp_path, produced):
    root = tmp_path / "shared"
    CompileCache(Cache(root), ArtefactTrust(b"key")).save(KEY, produced)
    (root / "compiled").chmod(0o777)
    restoring = CompileCache(Cache(root), ArtefactTrust(b"key", uid=os.geteuid() + 1))
    assert restoring.restore(KEY, tmp_path / "fresh") == 8


def test_without_a_signing_key_another_users_artefacts_are_not_restored(tmp_path, produced):
    root = tmp_path / "shared"
    CompileCache(Cache(root)).save(KEY, produced)
    stranger = CompileCache(Cache(root), ArtefactTrust(uid=os.geteuid() + 1))
    with pytest.raises(UntrustedArtefactsError, match=f"compiled/ belongs to user {os.geteuid()}"):
        stranger.restore(KEY, tmp_path / "fresh")
    with pytest.raises(UntrustedArtefactsError, match="belongs to user"):
        stranger.save(KEY, produced)


@pytest.mark.parametrize("which", ["", "*.tar", "*.json"])
@pytest.mark.parametrize("mode", [0o020, 0o002])
def test_what_others_can_write_to_is_not_restored_and_is_replaced(kept, produced, tmp_path, which, mode):
    kept.save(KEY, produced)
    folder = tmp_path / "cache/compiled"
    (path,) = folder.glob(which) if which else (folder,)
    path.chmod(path.stat().st_mode | mode)
    with pytest.raises(UntrustedArtefactsError, match="must not be writable by others"):
        kept.restore(KEY, tmp_path / "fresh")
    assert not (tmp_path / "fresh").exists()
    assert kept.save(KEY, produced)
    assert kept.restore(KEY, tmp_path / "fresh") == 8


def test_a_link_is_not_followed(kept, produced, tmp_path):
    kept.save(KEY, produced)
    (archive,) = (tmp_path / "cache/compiled").glob("*.tar")
    archive.rename(tmp_path / "elsewhere.tar")
    archive.symlink_to(tmp_path / "elsewhere.tar")
    assert kept.restore(KEY, tmp_path / "fresh") is None


def test_a_models_digest_follows_its_content():
    one = Manifest("s3://a/b", (FileEntry("m", 1, "e1", "0" * 64),))
    moved = Manifest("s3://c/d", (FileEntry("m", 1, "e2", "0" * 64),))
    changed = Manifest("s3://a/b", (FileEntry("m", 1, "e1", "1" * 64),))
    assert model_digest(one) == model_digest(moved) != model_digest(changed)


def test_without_a_key_nothing_is_kept_or_restored_where_other_nodes_may_write(produced, tmp_path):
    cache = Cache(tmp_path / "cache")
    assert CompileCache(cache).save(KEY, produced)
    cache.shared = True  # as if it were mounted from a file server
    with pytest.raises(UntrustedArtefactsError, match="file system that other nodes may write"):
        CompileCache(cache).restore(KEY, tmp_path / "fresh")
    (produced / "more").write_text("new")
    with pytest.raises(UntrustedArtefactsError, match="file system that other nodes may write"):
        CompileCache(cache).save(KEY, produced)
    signing = CompileCache(cache, ArtefactTrust(b"key"))
    assert signing.save(KEY, produced)
    assert signing.restore(KEY, tmp_path / "fresh") == 11
    cache.close()


def test_an_archive_of_one_kind_is_never_restored_as_another(produced, tmp_path):
    cache = Cache(tmp_path / "cache")
    trust = ArtefactTrust(b"key")
    archives = ArtefactArchives(cache, "compiled", trust)
    archives.save("n", produced, made_of={})
    record = tmp_path / "cache/compiled/n.json"
    content = json.loads(record.read_text())
    record.write_text(json.dumps(content | trust.sign("snapshots", "n", content["sha256"])))
    with pytest.raises(UntrustedArtefactsError, match=r"compiled/n\.tar has a signature of another key"):
        archives.restore("n", tmp_path / "fresh")
    cache.close()


def test_archives_count_in_the_quota_and_the_least_recently_used_goes_first(tmp_path):
    produced = tmp_path / "vllm"
    produced.mkdir()
    (produced / "graph.so").write_bytes(bytes(100_000))
    keys = [dataclasses.replace(KEY, model=model) for model in ("a", "b", "c")]
    cache = Cache(tmp_path / "cache", quota_bytes=250_000)
    kept = CompileCache(cache)
    for age, key in zip((30, 20), keys[:2], strict=True):
        kept.save(key, produced)
        (archive,) = (tmp_path / "cache/compiled").glob(f"{key.name}.tar")
        os.utime(archive, (time.time() - age, time.time() - age))
    assert kept.restore(keys[0], tmp_path / "used") == 100_000
    assert kept.save(keys[2], produced)
    assert kept.restore(keys[1], tmp_path / "evicted") is None
    assert kept.restore(keys[0], tmp_path / "kept") == 100_000
    assert take_inventory(tmp_path / "cache").archive_bytes > 200_000
    pruned = cache.prune(0)
    assert sorted(pruned.removed) == sorted(f"compiled/{key.name}.tar" for key in (keys[0], keys[2]))
    assert list((tmp_path / "cache/compiled").iterdir()) == []
    cache.close()
