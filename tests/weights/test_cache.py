"""The cache under crashes, concurrent processes and damaged files."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

import weights
from tests.weights.cached_loads import LOAD, blobs, load
from tests.weights.conftest import QUICK, digests_of
from tests.weights.faults import NOTHING, Fault
from weights.cache.cache import Cache
from weights.cache.leases import LeaseManager
from weights.cache.partial_file import part_digest
from weights.loading.model import open_model
from weights.manifest import FileEntry
from weights.plan import Part

FORK_SERVER = textwrap.dedent(
    """
    # Lists once, then forks a loader for each line "FOLDER" and prints its process id, and how it ended.
    import os, sys
    from pathlib import Path
    from weights.cache.cache import Cache
    from weights.sources.listing import list_model
    from weights.loading.model import OpenModel
    from weights.sources.factory import open_source
    source = open_source(sys.argv[1])
    listing = list_model(source)
    print("ready", flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            cache = Cache(Path(line.strip()))
            options = {"identity": source.identity, "wanted": None, "limit_bytes": 1 << 28, "concurrency": 4}
            with OpenModel(source, cache, listing, **options) as model:
                for _ in model:
                    pass
            os._exit(0)
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(status, flush=True)
    """
)


def test_a_process_killed_at_fifty_random_points_leaves_a_cache_that_is_right(bucketed, tmp_path):
    chance = random.Random(11)
    server = subprocess.Popen(
        [sys.executable, "-c", FORK_SERVER, bucketed.uri],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    bucketed.proxy.remembers = True
    # Slow enough for a kill to fall anywhere between the first byte and publication.
    bucketed.proxy.decide = lambda r: Fault(pause=0.01) if r.is_weights else NOTHING

    def start(folder: Path) -> int:
        server.stdin.write(f"{folder}\n")
        server.stdin.flush()
        return int(server.stdout.readline())

    def end() -> int:
        return int(server.stdout.readline())

    try:
        assert server.stdout.readline() == "ready\n"
        started = time.monotonic()
        start(tmp_path / "whole")
        assert end() == 0
        whole = time.monotonic() - started
        killed = 0
        for number in range(50):
            # Several lives on one cache: what one of them left, the next one builds on.
            folder = tmp_path / f"cache-{number // 5}"
            pid = start(folder)
            time.sleep(chance.uniform(0, 0.8 * whole))
            with contextlib.suppress(ProcessLookupError):  # it was done before
                os.kill(pid, signal.SIGKILL)
            killed += end() != 0
            if number % 5 == 4:
                found, report = load(bucketed, folder)
                assert found == bucketed.expected
                assert report.cache_error is None
                found, report = load(bucketed, folder)
                assert found == bucketed.expected
                assert report.bytes_from_source == 0
        assert killed > 15
    finally:
        server.stdin.close()
        server.wait(30)
        server.stdout.close()


def test_processes_that_start_together_cause_one_download(bucketed, tmp_path):
    bucketed.proxy.decide = lambda r: Fault(pause=0.05) if r.is_weights else NOTHING
    command = [sys.executable, "-c", LOAD, bucketed.uri, str(tmp_path)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    answers = [json.loads(process.communicate(timeout=60)[0]) for process in running]
    assert all(answer["found"] == bucketed.expected for answer in answers)
    assert bucketed.proxy.bulk_bytes <= bucketed.made.weight_bytes
    assert len(blobs(tmp_path)) == 2


def wait_until(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_another_hosts_download_is_continued_once_its_lease_has_expired(bucketed, tmp_path):
    """The other host is a lease with another host's name: its age alone tells whether it lives."""

    def something_arrived() -> bool:
        return any(any(path.read_bytes()) for path in tmp_path.glob("partial/*/digests"))

    # A process that fetched a part of the model and vanished:
    def refuse_later_parts(request):
        if not request.is_bulk or request.first <= 8_000_000:
            return NOTHING
        wait_until(something_arrived)
        return Fault(status=403, code="AccessDenied")

    bucketed.proxy.decide = refuse_later_parts
    with pytest.raises(weights.AccessDeniedError):
        load(bucketed, tmp_path)
    bucketed.proxy.decide = lambda _: NOTHING
    folders = list((tmp_path / "partial").iterdir())
    assert folders
    for folder in folders:
        lease = folder / "lease"
        lease.write_text(
            json.dumps({"token": "x", "host": "elsewhere", "boot": "y", "pid_namespace": "z", "pid": 1})
        )
        os.utime(lease, (time.time() - 3600, time.time() - 3600))
    found, report = load(bucketed, tmp_path)
    assert found == bucketed.expected
    assert 0 < report.bytes_from_source < bucketed.made.weight_bytes, "what it had fetched was used"


def test_a_damaged_cached_file_is_detected_and_repaired(bucketed, tmp_path):
    load(bucketed, tmp_path)
    largest = blobs(tmp_path)[-1]
    times = largest.stat()
    with largest.open("rb+") as file:
        file.seek(5_000_000)
        file.write(b"\xff" * 100)
    os.utime(largest, ns=(times.st_atime_ns, times.st_mtime_ns))  # as a failing disk would: no trace
    found, report = load(bucketed, tmp_path)
    assert found == bucketed.expected
    assert report.repaired_parts == 1
    assert 0 < report.bytes_from_source <= 8 << 20, "only the damaged part was fetched"
    found, report = load(bucketed, tmp_path)
    assert (found, report.bytes_from_source) == (bucketed.expected, 0)


def test_tensors_of_a_damaged_part_are_delivered_once_more(bucketed, tmp_path):
    load(bucketed, tmp_path)
    largest = blobs(tmp_path)[-1]
    with largest.open("rb+") as file:
        file.seek(5_000_000)
        file.write(b"\xff" * 100)
    with open_model(bucketed.uri, cache_dir=tmp_path, retry=QUICK) as model:
        delivered = [(entry, bytes(data)) for entry, data in model]
    names = [entry.name for entry, _ in delivered]
    twice = {name for name in names if names.count(name) == 2}
    assert twice
    assert len(delivered) == len(bucketed.expected) + len(twice), "no more than what may have been damaged"
    assert digests_of(delivered) == bucketed.expected


@pytest.mark.parametrize("damage", ["truncated", "emptied", "removed", "digests removed", "digests damaged"])
def test_a_cached_file_that_is_incomplete_is_fetched_again(bucketed, tmp_path, damage):
    load(bucketed, tmp_path)
    largest = blobs(tmp_path)[-1]
    digests = largest.with_name(f"{largest.name}.parts")
    if damage == "truncated":
        os.truncate(largest, 5_000_000)
    elif damage == "emptied":
        os.truncate(largest, 0)
    elif damage == "removed":
        largest.unlink()
    elif damage == "digests removed":
        digests.unlink()
    else:
        digests.write_text(digests.read_text()[:100])
    found, _ = load(bucketed, tmp_path)
    assert found == bucketed.expected
    found, report = load(bucketed, tmp_path)
    assert (found, report.bytes_from_source) == (bucketed.expected, 0)


def test_a_pull_repairs_damage_too(bucketed, tmp_path):
    pulled = weights.pull_blocking(bucketed.uri, cache_dir=tmp_path, retry=QUICK)
    pulled.release()
    largest = blobs(tmp_path)[-1]
    right = largest.read_bytes()
    with largest.open("rb+") as file:
        file.seek(9_000_000)
        file.write(b"\xff" * 10)
    again = weights.pull_blocking(bucketed.uri, cache_dir=tmp_path, retry=QUICK)
    assert again.path == pulled.path
    assert 0 < again.bytes_read <= 8 << 20
    assert largest.read_bytes() == right
    again.release()


def test_damage_that_cannot_be_fetched_again_is_an_error(bucketed, tmp_path, monkeypatch):
    pulled = weights.pull_blocking(bucketed.uri, cache_dir=tmp_path, retry=QUICK)
    pulled.release()
    with blobs(tmp_path)[-1].open("rb+") as file:
        file.seek(5_000_000)
        file.write(b"\xff")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(weights.SourceError), open_model(pulled.path, retry=QUICK) as model:
        digests_of(model)


def test_a_start_from_the_cache_needs_no_network(bucketed, tmp_path, monkeypatch):
    pulled = weights.pull_blocking(bucketed.uri, cache_dir=tmp_path, retry=QUICK)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with open_model(pulled.path) as model:
        assert digests_of(model) == bucketed.expected
    pulled.release()


def test_a_file_removed_during_a_read_is_read_to_its_end(bucketed, tmp_path):
    load(bucketed, tmp_path)
    with open_model(bucketed.uri, cache_dir=tmp_path, retry=QUICK) as model:
        tensors = iter(model)
        entry, data = next(tensors)
        found = digests_of([(entry, data)])
        for path in blobs(tmp_path):
            path.unlink()
        found |= digests_of(tensors)
    assert found == bucketed.expected


def test_a_load_survives_the_removal_of_its_partial_files(bucketed, tmp_path):
    def decide(request):
        if request.is_bulk and len(bucketed.proxy.bulk) == 2:
            for folder in (tmp_path / "partial").iterdir():
                shutil.rmtree(folder)
        return NOTHING

    bucketed.proxy.decide = decide
    with open_model(bucketed.uri, cache_dir=tmp_path, retry=QUICK, concurrency=2) as model:
        assert digests_of(model) == bucketed.expected


class PublishedFirst(LeaseManager):
    """The lease of a replica that joins just as another one publishes."""

    def __init__(self, scratch: Path, publish) -> None:
        super().__init__(scratch)
        self._publish = publish

    def acquire(self, path: Path) -> bool:
        self._publish()
        return super().acquire(path)


def test_a_file_that_is_published_while_another_replica_joins_is_whole_for_both(tmp_path):
    content = b"x" * 5000
    entry, parts = FileEntry("model.bin", len(content), "etag"), (Part(0, 0, len(content)),)
    first, second = Cache(tmp_path), Cache(tmp_path)
    partial = first.open_partial("source", entry, parts)
    partial.write_part(parts[0], memoryview(content), part_digest(content))
    second.leases = PublishedFirst(
        tmp_path / "tmp", lambda: first.publish("source", partial, threading.Event())
    )
    try:
        joined = second.open_partial("source", entry, parts)
        seen = bytearray(len(content))
        assert joined.gone
        assert joined.read_part(parts[0], memoryview(seen)) is not None
        assert seen == content
        assert second.blob("source", entry) is not None
        joined.close()
    finally:
        partial.close()
        first.close()
        second.close()
