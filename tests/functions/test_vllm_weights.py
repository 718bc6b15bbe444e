"""A replica's weights: from S3 through the cache into the engine, and the errors when that fails."""

import contextlib
import hashlib

import aiohttp
import pytest

from functions.engines.vllm.model_files import ModelFiles
from tests.functions.servers import stage_process, wait_until
from tests.functions.vllm_replica import NAME, PATIENCE, VllmReplica
from tests.weights.faults import Fault, fault_proxy
from tests.weights.s3 import environment_for


@pytest.fixture(scope="module")
def uri(s3, made_model):
    return s3.upload(made_model.path, "replicas", "models/tiny")


@pytest.mark.vllm
async def test_weights_from_s3_are_fetched_once_and_every_engine_maps_them(
    warm_replica: VllmReplica, http: aiohttp.ClientSession, made_model
):
    await warm_replica.order(http, "standby")
    await warm_replica.order(http, "hot")

    def told(message):
        return [line for line in warm_replica.stage.lines() if line["message"] == message]

    await wait_until(lambda: len(told("weights read")) >= 2)
    (fetched,) = told("weights fetched")
    total = sum(path.stat().st_size for path in made_model.path.glob("*.safetensors"))
    assert fetched["bytes"] == total
    assert {line["from_source"] for line in told("weights read")} == {0}
    cached = {line["from_cache"] for line in told("weights read")}
    assert cached <= set(range(total // 2, total + 1))
    assert "weights" in (await warm_replica.view(http))["phases"]


@pytest.mark.vllm
@pytest.mark.parametrize("case", ["no such bucket", "denied", "corrupt", "pickle"])
async def test_weights_that_cannot_be_fetched_fail_the_replica_with_the_cause(s3, uri, tmp_path, http, case):
    says = {
        "no such bucket": "there is no bucket 'not-there'",
        "denied": "403 AccessDenied",
        "corrupt": "model.safetensors: the bytes that arrived have SHA-256",
        "pickle": "a pickle runs code",
    }[case]
    faults = {
        "denied": lambda r: Fault(status=403, code="AccessDenied") if r.is_bulk else Fault(),
        "corrupt": lambda r: Fault(flip=1_000_000) if r.is_bulk else Fault(),
    }
    address = {"no such bucket": "s3://not-there/m"}.get(case, uri)
    if case == "pickle":
        address = "s3://replica-pickle/m"
        s3.client().create_bucket(Bucket="replica-pickle")
        s3.client().put_object(Bucket="replica-pickle", Key="m/pytorch_model.bin", Body=b"\x80\x04.")
    with fault_proxy(s3.endpoint) as proxy:
        proxy.decide = faults.get(case, lambda _: Fault())
        with stage_process(
            "generate",
            tmp_path,
            PILOTLIGHT_MODEL_URI=address,
            PILOTLIGHT_MODEL_NAME=NAME,
            PILOTLIGHT_CACHE_DIR=str(tmp_path / "cache"),
            PILOTLIGHT_FAILURE_SECONDS="1",
            **environment_for(proxy.endpoint),
        ) as stage:
            seen = {}

            async def failed() -> bool:
                with contextlib.suppress(aiohttp.ClientError):
                    async with http.get(f"{stage.url}/healthz/ready") as response:
                        seen.update(await response.json(), status=response.status)
                return seen.get("state") == "failed"

            await wait_until(failed, PATIENCE)
            assert seen["status"] == 503
            assert seen["cause"].startswith(f"PILOTLIGHT_MODEL_URI = {address}: ")
            assert says in seen["cause"]
            assert stage.wait(30) == 1
            assert any(says in (line.get("cause") or "") for line in stage.lines())


async def test_another_load_format_gets_whole_files(aws, uri, made_model, tmp_path):
    files = ModelFiles(uri, tmp_path, {"load-format": "auto"})
    folder = await files.fetch()
    assert (folder / "model.safetensors").read_bytes() == (made_model.path / "model.safetensors").read_bytes()
    assert files.options() == {}
    assert files.start_prefetch(lambda _: None, lambda _: None) is None
    await files.close()


async def test_the_weights_of_a_streamed_model_are_fetched_after_its_other_files(aws, uri, tmp_path):
    files = ModelFiles(uri, tmp_path, {})
    folder = await files.fetch()
    assert (folder / "tokenizer.json").exists()
    assert not (folder / "model.safetensors").exists()
    assert files.options() == {"load-format": "pilotlight"}
    seconds, replaced = [], []
    await files.start_prefetch(seconds.append, replaced.append)
    assert (len(seconds), replaced) == (1, [])
    assert [blob for blob in (tmp_path / "blobs").iterdir() if blob.stat().st_size > 1 << 20]
    await files.close()


async def test_a_model_that_is_replaced_while_it_is_fetched_is_fetched_in_its_new_version(
    aws, made_model, tmp_path
):
    uri = aws.upload(made_model.path, "replica-replaced", "m")
    files = ModelFiles(uri, tmp_path / "cache", {})
    before = await files.fetch()
    other = bytearray((made_model.path / "model.safetensors").read_bytes())
    other[-1] ^= 1
    aws.client().put_object(Bucket="replica-replaced", Key="m/model.safetensors", Body=bytes(other))
    replaced = []
    await files.start_prefetch(lambda _: None, replaced.append)
    (after,) = replaced
    assert after != before
    blobs = {path.name for path in (tmp_path / "cache" / "blobs").iterdir()}
    assert hashlib.sha256(other).hexdigest() in blobs
    assert hashlib.sha256((made_model.path / "model.safetensors").read_bytes()).hexdigest() not in blobs
    await files.close()


async def test_the_engine_knows_the_quota_of_the_cache(aws, uri, tmp_path):
    given = {"model-loader-extra-config": {"concurrency": 2}}
    files = ModelFiles(uri, tmp_path, given, quota=1 << 30)
    await files.fetch()
    assert files.options()["model-loader-extra-config"] == {"quota_bytes": 1 << 30, "concurrency": 2}
    await files.close()


async def test_a_model_is_fetched_without_a_cache_that_cannot_be_written(aws, uri, tmp_path):
    (tmp_path / "file").write_text("in the way")
    files = ModelFiles(uri, tmp_path / "file", {})
    folder = await files.fetch()
    assert (folder / "tokenizer.json").exists()
    assert files.options() == {
        "load-format": "pilotlight",
        "model-loader-extra-config": {"cache_dir": str(tmp_path / "file")},
    }
    assert files.start_prefetch(lambda _: None, lambda _: None) is None
    await files.close()
    assert not folder.exists()


async def test_a_mounted_model_is_loaded_where_it_is(made_model, tmp_path):
    files = ModelFiles(str(made_model.path), tmp_path, {})
    assert await files.fetch() == made_model.path
    assert files.options() == {"load-format": "pilotlight"}
    await files.close()
