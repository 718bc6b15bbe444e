"""Faults between store and engine: a load gives the right tensors or one clear error, never wrong tensors."""

import random
import threading

import pytest

import weights
from tests.weights.conftest import QUICK, Bucketed, digests_of
from tests.weights.faults import NOTHING, Fault
from weights.loading.model import open_model
from weights.make_model import make_model


@pytest.fixture(params=["without a cache", "through the cache"])
def cache_dir(request, tmp_path):
    return tmp_path if request.param == "through the cache" else None


def load(bucketed: Bucketed, cache_dir) -> dict[str, str]:
    with open_model(bucketed.uri, cache_dir=cache_dir, retry=QUICK, concurrency=8) as model:
        return digests_of(model)


@pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (500, "InternalError"), (429, "TooMany")])
def test_a_load_survives_many_transient_errors(bucketed, cache_dir, status, code):
    proxy = bucketed.proxy

    def decide(request):
        storm = len(proxy.bulk) <= 10 if request.is_bulk else request.number <= 4
        return Fault(status=status, code=code) if request.is_weights and storm else NOTHING

    proxy.decide = decide
    assert load(bucketed, cache_dir) == bucketed.expected


def test_errors_without_end_become_one_error_after_few_requests(bucketed, cache_dir):
    bucketed.proxy.decide = lambda r: Fault(status=503, code="SlowDown") if r.is_bulk else NOTHING
    with pytest.raises(weights.TransferError, match=r"in 8 attempts, the last: 503 SlowDown"):
        load(bucketed, cache_dir)
    assert len(bucketed.proxy.bulk) <= 8 * QUICK.attempts


@pytest.mark.parametrize("ending", ["reset", "close"])
def test_broken_bodies_are_resumed_where_they_broke(bucketed, cache_dir, ending):
    chance = random.Random(7)
    decided = threading.Lock()

    def decide(request):
        with decided:
            if request.is_weights and chance.random() < 0.6:
                return Fault(after=chance.randrange(0, 6_000_000), ending=ending)
        return NOTHING

    bucketed.proxy.decide = decide
    assert load(bucketed, cache_dir) == bucketed.expected


def test_a_stalled_read_goes_on_over_another_connection(bucketed, cache_dir):
    bucketed.proxy.decide = lambda r: (
        Fault(after=1_500_000, ending="stall") if r.is_bulk and r.number % 3 == 0 else NOTHING
    )
    assert load(bucketed, cache_dir) == bucketed.expected


def test_one_wrong_byte_is_fetched_again(bucketed, cache_dir):
    flipped = threading.Event()

    def decide(request):
        if request.is_bulk and request.first <= 5_000_000 <= request.last and not flipped.is_set():
            flipped.set()
            return Fault(flip=5_000_000)
        return NOTHING

    bucketed.proxy.decide = decide
    assert load(bucketed, cache_dir) == bucketed.expected
    assert flipped.is_set()


def test_a_byte_that_is_always_wrong_is_an_error_and_never_a_cached_file(bucketed, cache_dir):
    bucketed.proxy.decide = lambda r: Fault(flip=5_000_000) if r.is_bulk else NOTHING
    with pytest.raises(weights.IntegrityError, match=r"model-0000\d-of-.*SHA-256 .* must be"):
        load(bucketed, cache_dir)
    if cache_dir is not None:
        bucketed.proxy.decide = lambda _: NOTHING
        assert load(bucketed, cache_dir) == bucketed.expected


def test_a_wrong_byte_in_a_pull_is_fetched_again_and_then_an_error(bucketed, tmp_path):
    flips = []

    def decide(request):
        if request.is_bulk and request.first <= 5_000_000 <= request.last and "00001" in request.path:
            flips.append(request)
            return Fault(flip=5_000_000) if len(flips) == 1 else NOTHING
        return NOTHING

    bucketed.proxy.decide = decide
    pulled = weights.pull_blocking(bucketed.uri, cache_dir=tmp_path / "once", retry=QUICK)
    assert len(flips) == 2
    with open_model(pulled.path) as model:
        assert digests_of(model) == bucketed.expected
    bucketed.proxy.decide = lambda r: Fault(flip=5_000_000) if r.is_bulk else NOTHING
    with pytest.raises(weights.IntegrityError):
        weights.pull_blocking(bucketed.uri, cache_dir=tmp_path / "always", retry=QUICK)


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        (
            Fault(status=403, code="AccessDenied"),
            weights.AccessDeniedError,
            "403 AccessDenied .*environment variables",
        ),
        (
            Fault(status=400, code="ExpiredToken"),
            weights.AccessDeniedError,
            "ExpiredToken .*environment variables",
        ),
        (Fault(status=404, code="NoSuchKey"), weights.NotFoundError, r"model-.*\.safetensors: 404 NoSuchKey"),
    ],
)
def test_a_refused_read_ends_at_once(bucketed, cache_dir, fault, error, words):
    bucketed.proxy.decide = lambda r: fault if r.is_bulk else NOTHING
    with pytest.raises(error, match=words):
        load(bucketed, cache_dir)
    assert len(bucketed.proxy.bulk) <= 8, "one request of each reader, no storm"


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        (
            Fault(status=403, code="AccessDenied"),
            weights.AccessDeniedError,
            r"AccessDenied from http.*s3:ListBucket",
        ),
        (Fault(status=403, code="InvalidAccessKeyId"), weights.AccessDeniedError, "access key …TEST"),
        (
            Fault(status=400, code="ExpiredToken"),
            weights.AccessDeniedError,
            "ExpiredToken .*environment variables",
        ),
        (Fault(status=404, code="NoSuchBucket"), weights.NotFoundError, "there is no bucket 'parted'"),
    ],
)
def test_a_refused_listing_ends_at_once(bucketed, fault, error, words):
    bucketed.proxy.decide = lambda _: fault
    with pytest.raises(error, match=words):
        load(bucketed, None)
    assert len(bucketed.proxy.requests) == 1


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Another version of the model."""
    return make_model(tmp_path_factory.mktemp("other") / "m", size=30_000_000, shard_bytes=16 << 20, seed=1)


def replace_during(bucketed: Bucketed, other, uri: str):
    """Upload another version of everything as soon as the first bulk bytes of this one were asked for."""
    bucket, prefix = uri.removeprefix("s3://").split("/", 1)
    client = bucketed.server.client()
    client_lock = threading.Lock()
    done = []

    def decide(request):
        if request.is_bulk:
            with client_lock:
                if len(done) == 0 and len(bucketed.proxy.bulk) >= 2:
                    for file in other.path.iterdir():
                        with file.open("rb") as body:
                            client.put_object(
                                Bucket=bucket,
                                Key=f"{prefix}/{file.name}",
                                Body=body,
                                ChecksumAlgorithm="SHA256",
                            )
                    done.append(True)
        return NOTHING

    bucketed.proxy.decide = decide


def test_a_model_replaced_during_a_pull_arrives_whole_in_its_new_version(bucketed, other, tmp_path):
    uri = bucketed.server.upload(bucketed.made.path, "replaced-pull", "m")
    replace_during(bucketed, other, uri)
    pulled = weights.pull_blocking(uri, cache_dir=tmp_path / "cache", retry=QUICK)
    for file in other.files:
        assert (pulled.path / file).read_bytes() == (other.path / file).read_bytes()


def test_a_model_replaced_during_a_load_is_an_error_and_never_a_mix(bucketed, other, cache_dir):
    uri = bucketed.server.upload(bucketed.made.path, f"replaced-load-{cache_dir is None}".lower(), "m")
    replace_during(bucketed, other, uri)
    with (
        pytest.raises(weights.ObjectChangedError, match="was replaced during the read"),
        open_model(uri, cache_dir=cache_dir, retry=QUICK, concurrency=2) as model,
    ):
        digests_of(model)


def test_no_threads_are_left_after_an_error(bucketed, tmp_path):
    before = {thread.name for thread in threading.enumerate()}
    bucketed.proxy.decide = lambda r: Fault(status=403, code="AccessDenied") if r.is_bulk else NOTHING
    with pytest.raises(weights.AccessDeniedError):
        load(bucketed, tmp_path)
    left = {t.name for t in threading.enumerate() if t.name.startswith(("weights", "lease"))}
    assert left <= before
