"""The cache under full disks, quotas and slow disks; the memory that its files take."""

import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path

from tests.weights.cached_loads import LOAD, blobs, load
from tests.weights.conftest import QUICK, digests_of
from weights import fill_cache
from weights.cache.cache import Cache
from weights.loading.model import open_model


def test_a_load_beside_a_read_only_cache_succeeds_and_reports_it(bucketed, caplog):
    found, report = load(bucketed, Path("/proc/pilotlight-cache"))
    assert found == bucketed.expected
    assert "cannot be" in report.cache_error or "/proc/pilotlight-cache" in report.cache_error
    assert "streaming without caching" in caplog.text


def in_process_with_small_files(uri: str, folder: Path, limit: int) -> subprocess.CompletedProcess:
    """Load in a process that may write only `limit` bytes into a file: the nearest thing to a full disk."""
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n" + LOAD
    return subprocess.run(
        [sys.executable, "-c", limited, uri, str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_load_beside_a_full_disk_succeeds_and_reports_it(bucketed, tmp_path):
    ended = in_process_with_small_files(bucketed.uri, tmp_path, 1 << 20)
    assert ended.returncode == 0, ended.stderr
    answer = json.loads(ended.stdout)
    assert answer["found"] == bucketed.expected
    assert "no room" in answer["error"]


def test_a_pull_without_room_is_one_clear_error(bucketed, tmp_path):
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "import sys, weights; from pathlib import Path\n"
        "try: weights.pull_blocking(sys.argv[1], cache_dir=Path(sys.argv[2]))\n"
        "except weights.CacheError as error: print(error)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, bucketed.uri, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert f"cache folder = {tmp_path}, no room" in ended.stdout, ended.stderr
    assert "bytes needed" in ended.stdout


def test_what_is_in_use_is_not_evicted_and_the_rest_is_by_age(bucketed, tmp_path):
    load(bucketed, tmp_path)
    other = Cache(tmp_path)
    model = open_model(bucketed.uri, cache_dir=tmp_path, retry=QUICK)
    tensors = iter(model)
    first = [next(tensors) for _ in range(3)]
    pruned = other.prune(0)
    assert pruned.removed == ()
    assert pruned.in_use_bytes >= bucketed.made.weight_bytes
    del first
    model.close()
    pruned = other.prune(0)
    assert len(pruned.removed) == 2
    assert not blobs(tmp_path)
    other.close()
    assert load(bucketed, tmp_path)[0] == bucketed.expected


def test_a_quota_makes_room_by_what_was_used_longest_ago(bucketed, made_model, tmp_path):
    load(bucketed, tmp_path)
    uri = bucketed.server.upload(made_model.path, "quota-second", "m")
    with open_model(uri, cache_dir=tmp_path, quota_bytes=10_000_000, retry=QUICK) as model:
        digests_of(model)
    sizes = [path.stat().st_size for path in blobs(tmp_path)]
    assert sum(sizes) <= 10_000_000
    assert max(sizes) >= made_model.weight_bytes


def test_a_start_does_not_wait_for_a_slow_cache_which_is_completed_afterwards(
    bucketed, tmp_path, monkeypatch
):
    from weights.cache.partial_file import PartialFile

    original = PartialFile.write_part

    def slowly(self, *arguments):
        time.sleep(0.3)
        original(self, *arguments)

    monkeypatch.setattr(PartialFile, "write_part", slowly)
    with open_model(bucketed.uri, cache_dir=tmp_path, retry=QUICK, limit_bytes=4 << 20) as model:
        found = digests_of(model)
    assert found == bucketed.expected
    assert model.report().bytes_from_source > bucketed.made.weight_bytes, "what was given back came again"
    found, report = load(bucketed, tmp_path)
    assert (found, report.bytes_from_source) == (bucketed.expected, 0)


HOLD = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from weights.loading.model import open_model
    model = open_model(sys.argv[1], cache_dir=Path(sys.argv[2]))
    held = [(data, bytes(data)[:0]) for _, data in model]
    sum(sum(data[::4096]) for data, _ in held)
    totals = dict.fromkeys(("Rss", "Pss", "Private_Clean", "Private_Dirty"), 0)
    print("ready", flush=True)
    sys.stdin.readline()
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, _, rest = line.partition(":")
        if "-" in name.split()[0]:
            inside = "/blobs/" in line
        elif inside and name in totals:
            totals[name] += int(rest.split()[0]) * 1024
    print(totals["Rss"], totals["Pss"], totals["Private_Clean"] + totals["Private_Dirty"], flush=True)
    sys.stdin.read()
    """
)


def test_replicas_on_a_host_share_the_memory_of_cached_weights(bucketed, tmp_path):
    load(bucketed, tmp_path)
    command = [sys.executable, "-c", HOLD, bucketed.uri, str(tmp_path)]
    replicas = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    try:
        for replica in replicas:
            assert replica.stdout.readline() == "ready\n"
        for replica in replicas:
            replica.stdin.write("measure\n")
            replica.stdin.flush()
            resident, proportional, private = (int(number) for number in replica.stdout.readline().split())
            assert resident >= bucketed.made.weight_bytes
            assert proportional < 0.6 * resident
            assert private < 1 << 20
    finally:
        for replica in replicas:
            replica.stdin.close()
            replica.wait(30)
            replica.stdout.close()


def test_filling_a_cache_stays_within_the_quota_of_its_environment(aws, made_model, tmp_path):
    first, second = (aws.upload(made_model.path, f"quota-{name}", "m") for name in ("first", "second"))
    changed = bytearray((made_model.path / "model.safetensors").read_bytes())
    changed[-1] ^= 1
    aws.client().put_object(Bucket="quota-second", Key="m/model.safetensors", Body=bytes(changed))
    quota = sum(path.stat().st_size for path in made_model.path.iterdir()) + (1 << 20)
    environment = {"PILOTLIGHT_CACHE_DIR": str(tmp_path), "PILOTLIGHT_CACHE_QUOTA": str(quota)}
    for uri in (first, second):
        assert fill_cache.fill(uri, environment, lambda _: None) == 0
    kept = [path.stat().st_size for path in (tmp_path / "blobs").iterdir()]
    assert max(kept) == len(changed)
    assert sum(kept) <= quota


def test_a_quota_that_is_no_number_is_refused(tmp_path):
    lines = []
    environment = {"PILOTLIGHT_CACHE_DIR": str(tmp_path), "PILOTLIGHT_CACHE_QUOTA": "200Gi"}
    assert fill_cache.fill("s3://models/m", environment, lines.append) == 1
    assert lines == [
        {"kind": "failed", "message": "PILOTLIGHT_CACHE_QUOTA = 200Gi: must be a number of bytes above 0"}
    ]
