"""Weights that come ahead of their engine: complete, or as far as they got when it began to load."""

import asyncio
import threading

import pytest

import weights
from tests.weights.conftest import QUICK, digests_of
from tests.weights.faults import NOTHING, Fault
from weights.loading.model import open_model


async def without_weights(bucketed, tmp_path):
    return await weights.pull(bucketed.uri, cache_dir=tmp_path, with_weights=False, retry=QUICK)


def weights_bytes(model) -> int:
    return sum(file.size for file in model.manifest.files if file.is_weights)


async def test_an_engine_finds_what_was_fetched_ahead(bucketed, tmp_path):
    model = await without_weights(bucketed, tmp_path)
    assert bucketed.proxy.bulk == []
    done = await weights.prefetch(model, retry=QUICK)
    assert (done.bytes_read, done.complete) == (weights_bytes(model), True)
    with open_model(model.path, retry=QUICK) as opened:
        assert digests_of(opened) == bucketed.expected
        assert opened.report().bytes_from_source == 0
    again = await weights.prefetch(model, retry=QUICK)
    assert (again.bytes_read, again.complete) == (0, True)
    model.release()


async def test_an_engine_that_begins_earlier_takes_over_and_nothing_is_fetched_twice(bucketed, tmp_path):
    model = await without_weights(bucketed, tmp_path)
    enough, arrived, go_on = asyncio.Event(), threading.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def decide(request):
        # The second part waits on the wire until the engine has begun.
        if len(bucketed.proxy.bulk) == 2 and request.is_bulk:
            arrived.set()
            loop.call_soon_threadsafe(enough.set)
            go_on.wait(10)
        return NOTHING

    bucketed.proxy.decide = decide
    ahead = asyncio.create_task(weights.prefetch(model, until=enough, retry=QUICK, concurrency=1))
    await asyncio.to_thread(arrived.wait, 10)
    loading = asyncio.create_task(asyncio.to_thread(_load, model.path))
    go_on.set()
    done = await ahead
    assert not done.complete
    assert 0 < done.bytes_read < weights_bytes(model)
    digests, report = await loading
    assert digests == bucketed.expected
    assert report.bytes_from_source + done.bytes_read == weights_bytes(model)
    # Complete by now, and kept from eviction by who asked for it.
    assert model.pin_weights()
    assert weights_removed(tmp_path) == 0
    model.release()
    assert weights_removed(tmp_path) > 0


def _load(path):
    with open_model(path, retry=QUICK) as opened:
        return digests_of(opened), opened.report()


def weights_removed(folder) -> int:
    from weights.cache.cache import Cache

    cache = Cache(folder)
    try:
        return len(cache.prune(0).removed)
    finally:
        cache.close()


async def test_what_the_source_refuses_ends_the_prefetch_with_its_cause(bucketed, tmp_path):
    model = await without_weights(bucketed, tmp_path)
    bucketed.proxy.decide = lambda r: Fault(status=403, code="AccessDenied") if r.is_bulk else NOTHING
    with pytest.raises(weights.AccessDeniedError, match="403 AccessDenied"):
        await weights.prefetch(model, retry=QUICK)
    model.release()


async def test_a_cancelled_prefetch_leaves_its_parts_to_the_next_one(bucketed, tmp_path):
    model = await without_weights(bucketed, tmp_path)
    begun = asyncio.Event()
    ahead = asyncio.create_task(
        weights.prefetch(
            model, retry=QUICK, concurrency=1, progress=lambda state: state.done_bytes and begun.set()
        )
    )
    await begun.wait()
    ahead.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ahead
    done = await weights.prefetch(model, retry=QUICK)
    assert done.complete
    with open_model(model.path, retry=QUICK) as opened:
        assert digests_of(opened) == bucketed.expected
    model.release()


async def test_a_folder_keeps_nothing_where_its_own_cache_is_not_wanted(bucketed, tmp_path):
    model = await without_weights(bucketed, tmp_path)
    with open_model(model.path, own_cache=False, retry=QUICK) as opened:
        assert digests_of(opened) == bucketed.expected
    assert not (await asyncio.to_thread(model.pin_weights))
    assert not list((tmp_path / "partial").iterdir())
    model.release()
