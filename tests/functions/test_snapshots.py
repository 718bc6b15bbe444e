"""Snapshots of the template process, with real CRIU: what is restored, what is refused, and what is left behind."""

import asyncio
import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from functions.engines.vllm.snapshots import criu
from functions.engines.vllm.snapshots.criu import CriuError, find_criu
from functions.engines.vllm.snapshots.identity import (
    file_versions,
    first_changed_file,
    identity_here,
    import_environment,
)
from functions.engines.vllm.template_snapshots import TemplateSnapshots
from functions.engines.vllm.write_snapshot import write
from functions.settings import FunctionSettings
from tests.functions.servers import wait_until
from weights.cache.artefact_trust import ArtefactTrust
from weights.cache.cache import Cache

ROOT = Path(__file__).parents[2]
MODEL = "s3://bucket/tiny"
KEY = "a signing key"


def parked(folder, _model):
    return [sys.executable, "-m", "tests.functions.parked_process", str(folder)]


@pytest.fixture
def program(monkeypatch):
    """CRIU as `scripts/criu.sh` provides it."""
    provided = ROOT / "build/criu/criu"
    if provided.exists():
        monkeypatch.setenv("PILOTLIGHT_CRIU", str(provided))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    try:
        return find_criu(os.environ)
    except CriuError as error:
        pytest.skip(f"{error} (sh scripts/criu.sh build/criu provides it; the tests need root)")


@pytest.fixture
def cache(tmp_path):
    cache = Cache(tmp_path / "cache")
    yield cache
    cache.close()


@pytest.fixture
def written(program, cache, tmp_path):
    """A cache with a snapshot."""
    assert write(cache, ArtefactTrust(), program, model_uri=MODEL, model=tmp_path, command=parked)
    return cache


def snapshots(cache, key=None, **settings):
    return TemplateSnapshots(FunctionSettings(cache_dir=cache.root, model_uri=MODEL, **settings), key)


async def facts_of(template):
    return json.loads((await asyncio.wait_for(template.imported(), 20)).version)


def of_this_test(cache):
    """Processes that have something to do with a cache."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if str(cache.root) in " ".join(process.info["cmdline"] or ()):
            found.append(process)
    return found


async def test_two_restored_side_by_side_differ_in_all_that_must_differ(written, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of the replica")
    monkeypatch.chdir(tmp_path)
    restoring = [snapshots(written).restore() for _ in range(2)]
    templates = await asyncio.gather(*restoring)
    try:
        one, other = [await facts_of(template) for template in templates]
        for differing in ("random", "numpy", "openssl", "authkey", "uuid"):
            assert one[differing] != other[differing], differing
        assert one["environment"]["AWS_ACCESS_KEY_ID"] == "of the replica"
        assert one["directory"] == str(tmp_path)
        assert one["streams"][0] == "/dev/null"
        assert one["streams"][1] == str(Path("/proc/self/fd/1").readlink())
        assert one["policy"] == os.SCHED_OTHER
        assert one["descriptors"] <= 5, "standard streams, the channel, and the listing's own"
    finally:
        for template in templates:
            await template.close()
    await wait_until(lambda: of_this_test(written) == [])


async def test_there_is_no_line_and_no_template_without_a_snapshot(cache, caplog):
    with caplog.at_level(logging.INFO):
        assert await snapshots(cache).restore() is None
    assert caplog.records == []


async def refused(cache, caplog, key=None):
    """The cause for which a snapshot is not restored, and the seconds until that is known."""
    caplog.clear()
    began = time.monotonic()
    with caplog.at_level(logging.WARNING):
        assert await snapshots(cache, key).restore() is None
    seconds = time.monotonic() - began
    (record,) = caplog.records
    assert record.message == "snapshot not restored"
    await wait_until(lambda: of_this_test(cache) == [])
    return record.cause, seconds


def images(cache):
    (folder,) = (cache.root / "snapshots").iterdir()
    return folder


async def test_a_tampered_snapshot_is_refused_before_it_does_anything(written, caplog):
    (pages,) = images(written).glob("pages-*.img")
    with pages.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff")
    cause, _ = await refused(written, caplog)
    assert "pages-1.img was changed after it was kept" in cause


async def test_a_truncated_snapshot_is_refused(written, caplog):
    (pages,) = images(written).glob("pages-*.img")
    os.truncate(pages, 4096)
    assert "another size" in (await refused(written, caplog))[0]


async def test_a_snapshot_of_another_user_is_refused(written, caplog):
    os.chown(images(written) / "inventory.img", 10001, 10001)
    assert "belongs to user 10001" in (await refused(written, caplog))[0]


async def test_with_a_key_an_unsigned_snapshot_is_refused_and_a_signed_one_restored(
    written, program, caplog, tmp_path
):
    assert "has no signature" in (await refused(written, caplog, KEY))[0]
    trust = ArtefactTrust(KEY.encode())
    for folder in (written.root / "snapshots").iterdir():
        folder.rename(tmp_path / "aside")
    assert write(written, trust, program, model_uri=MODEL, model=tmp_path, command=parked)
    template = await snapshots(written, KEY).restore()
    assert (await facts_of(template))["policy"] == os.SCHED_OTHER
    await template.close()
    assert "another key" in (await refused(written, caplog, "not the key"))[0]


async def test_a_file_that_was_touched_makes_the_snapshot_unfit_until_another_is_written(
    program, cache, tmp_path, caplog
):
    module = tmp_path / "touched.py"
    module.write_text("")
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import touched; import tests.functions.parked_process as p; p.main()"

    def command(folder, _model):
        return [sys.executable, "-c", script, str(folder)]

    def again():
        return write(cache, ArtefactTrust(), program, model_uri=MODEL, model=tmp_path, command=command)

    assert again()
    assert not again(), "it is there already"
    os.utime(module, (1, 1))
    cause, _ = await refused(cache, caplog)
    assert cause.startswith(f"{module} is not the file that it was")
    assert again()
    template = await snapshots(cache).restore()
    await template.close()


async def test_another_environment_does_not_find_it(written, monkeypatch, caplog):
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    assert await snapshots(written).restore() is None


async def test_without_criu_one_line_says_why(program, cache, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert write(cache, ArtefactTrust(), program, model_uri=MODEL, model=tmp_path, command=parked)
    monkeypatch.delenv("PILOTLIGHT_CRIU", raising=False)
    cause, seconds = await refused(cache, caplog)
    assert cause == "CRIU is not installed; must be there in version 4.1 or later"
    assert seconds < 5


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo Version: 3.17.1", "has version 3.17.1, must be 4.1 or later"),
        ('case "$1" in --version) echo Version: 4.2;; *) exit 1;; esac', "CRIU could not restore it"),
        ('case "$1" in --version) echo Version: 4.2;; *) kill -SEGV $$;; esac', "CRIU could not restore it"),
    ],
)
async def test_an_unfit_or_failing_criu_is_named(  # noqa: PLR0917
    written, tmp_path, monkeypatch, caplog, script, message
):
    program = tmp_path / "criu"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PILOTLIGHT_CRIU", str(program))
    assert message in (await refused(written, caplog))[0]


def test_a_process_that_ends_before_it_is_written_leaves_nothing(program, cache, tmp_path):
    def command(_folder, _model):
        return [sys.executable, "-c", "raise SystemExit(3)"]

    with pytest.raises(CriuError, match="ended with status 3 before it was written"):
        write(cache, ArtefactTrust(), program, model_uri=MODEL, model=tmp_path, command=command)
    assert not (cache.root / "snapshots").exists()
    assert [path.suffix for path in (cache.root / "tmp").iterdir()] == [".lock"]


def test_two_that_write_at_once_write_one(program, cache, tmp_path):
    code = (
        "import sys; from pathlib import Path; from tests.functions import test_snapshots as t\n"
        "from weights.cache.cache import Cache; c = Cache(Path(sys.argv[1]))\n"
        "p = t.find_criu(t.os.environ)\n"
        "print(t.write(c, t.ArtefactTrust(), p, model_uri=t.MODEL, model=Path('/'), command=t.parked))"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code, str(cache.root)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert sorted(process.communicate(timeout=60)[0].strip() for process in both) == ["False", "True"]


WRITER = """
import sys
from pathlib import Path
from tests.functions import test_snapshots as t
from weights.cache.cache import Cache
cache = Cache(Path(sys.argv[1]))
t.write(cache, t.ArtefactTrust(), t.find_criu(t.os.environ), model_uri=t.MODEL, model=Path("/"), command=t.parked)
"""
RESTORER = """
import asyncio, sys
from pathlib import Path
from tests.functions import test_snapshots as t
from weights.cache.cache import Cache
async def main():
    template = await t.snapshots(Cache(Path(sys.argv[1]))).restore()
    print((await template.imported()).seconds, flush=True)
    await asyncio.sleep(30)
asyncio.run(main())
"""


async def killed(code, cache, seconds):
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(cache.root)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    # What it started ends without it, and within seconds.
    await wait_until(lambda: of_this_test(cache) == [])


async def test_a_writer_killed_at_any_moment_leaves_a_whole_snapshot_or_none(program, cache, caplog):
    chance = random.Random(1)
    whole = 0
    for _ in range(8):
        await killed(WRITER, cache, chance.uniform(0.2, 2.5))
        if (cache.root / "snapshots").exists() and list((cache.root / "snapshots").iterdir()):
            template = await snapshots(cache).restore()
            assert template is not None, caplog.records
            await template.close()
            whole += 1
            criu_folder = images(cache)
            criu_folder.rename(cache.root / "tmp" / f"used-{whole}")


async def test_a_replica_killed_at_any_moment_of_a_restore_leaves_no_process(written):
    chance = random.Random(2)
    for _ in range(6):
        await killed(RESTORER, written, chance.uniform(0.2, 1.8))
    template = await snapshots(written).restore()
    assert template is not None, "and the snapshot can still be restored"
    await template.close()


async def test_a_restored_template_that_dies_is_noticed(written):
    template = await snapshots(written).restore()
    await facts_of(template)
    (restored,) = [
        process for process in psutil.Process(template.pid).children(recursive=True) if not process.children()
    ]
    os.kill(restored.pid, signal.SIGKILL)
    await asyncio.wait_for(template.ended, 10)
    await template.close()


def test_the_environment_of_a_process_that_is_written_holds_no_secret():
    environment = {
        "PATH": "/bin", "HOME": "/", "OMP_NUM_THREADS": "4", "VLLM_LOGGING_LEVEL": "INFO", "LD_PRELOAD": "x.so",
        "HF_TOKEN": "secret", "VLLM_API_KEY": "secret", "AWS_SECRET_ACCESS_KEY": "secret", "K_REVISION": "r-1",
        "PILOTLIGHT_ADMIN_TOKEN": "secret", "LC_ALL": "C", "PORT": "80",
    }  # fmt: skip
    assert import_environment(environment).keys() == {
        "PATH", "HOME", "OMP_NUM_THREADS", "VLLM_LOGGING_LEVEL", "LD_PRELOAD", "LC_ALL",
    }  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"engine": "vllm 9"},
        {"model": "s3://bucket/other"},
        {"environment": {"OMP_NUM_THREADS": "7"}},
    ],
)
def test_another_engine_model_or_environment_has_another_name(change):
    given = {"engine": "vllm 1", "model": MODEL, "environment": {"OMP_NUM_THREADS": "1"}}
    assert identity_here(**given).name == identity_here(**given).name
    assert identity_here(**given).name != identity_here(**{**given, **change}).name


def test_files_are_compared_by_size_and_time(tmp_path):
    path = tmp_path / "module.py"
    path.write_text("a = 1")
    versions = json.loads(json.dumps(file_versions([str(path), str(tmp_path / "gone")])))
    assert list(versions) == [str(path)]
    assert first_changed_file(versions) is None
    path.write_text("a = 12")
    assert first_changed_file(versions) == str(path)
    path.unlink()
    assert first_changed_file(versions) == str(path)


def test_a_log_of_criu_is_quoted_by_its_first_error(tmp_path):
    (tmp_path / "dump.log").write_text(
        "(00.1) Error (criu/util.c:1533): rlimit: Can't setup RLIMIT_NOFILE for self\n"
        "(00.2) Warn  (x)\n(00.3) Error (criu/a.c:1): the cause\n(00.4) Error (criu/b.c:2): Dumping FAILED.\n"
    )
    assert criu.log_tail(tmp_path, "dump") == "(00.3) Error (criu/a.c:1): the cause"
    assert criu.log_tail(tmp_path, "restore") == "no error in its log"
