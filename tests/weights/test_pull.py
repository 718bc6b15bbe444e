"""Pulling a model: from S3 into the cache, and from a mounted folder in place."""

import asyncio
import hashlib
import shutil
import threading
from pathlib import Path

import pytest

import weights
from tests.weights.s3 import S3Server
from weights.make_model import MadeModel, make_model


def digests(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if not path.name.startswith(".")
    }


@pytest.fixture(scope="module")
def model_uri(s3: S3Server, made_model: MadeModel) -> str:
    return s3.upload(made_model.path, "pulling", "models/tiny")


async def test_a_model_in_s3_arrives_byte_for_byte(aws, made_model, model_uri, tmp_path):
    pulled = await weights.pull(model_uri, cache_dir=tmp_path)
    assert digests(pulled.path) == digests(made_model.path)
    assert pulled.manifest.parameters == made_model.parameters
    assert pulled.manifest.dtypes == {"BF16": made_model.parameters}
    assert pulled.bytes_read == pulled.manifest.total_bytes
    assert not pulled.from_cache


async def test_a_second_pull_reads_nothing_from_the_bucket(aws, model_uri, tmp_path):
    first = await weights.pull(model_uri, cache_dir=tmp_path)
    second = await weights.pull(model_uri, cache_dir=tmp_path)
    assert second.path == first.path
    assert second.from_cache
    assert second.bytes_read == 0
    assert second.manifest == first.manifest


async def test_patterns_choose_the_files(aws, model_uri, tmp_path):
    pulled = await weights.pull(model_uri, cache_dir=tmp_path, patterns=["*.json"])
    assert {path.name for path in pulled.path.iterdir()} == {
        ".pilotlight.json", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert [skipped.path for skipped in pulled.manifest.skipped] == ["model.safetensors"]


async def test_progress_ends_with_every_byte(aws, model_uri, tmp_path):
    seen: list[weights.Progress] = []
    pulled = await weights.pull(model_uri, cache_dir=tmp_path, progress=seen.append)
    await asyncio.sleep(0)
    assert seen[-1].done_bytes == seen[-1].total_bytes == pulled.manifest.total_bytes
    assert [state.done_bytes for state in seen] == sorted(state.done_bytes for state in seen)


async def test_pulls_at_the_same_time_agree(aws, made_model, model_uri, tmp_path):
    pulled = await asyncio.gather(*(weights.pull(model_uri, cache_dir=tmp_path) for _ in range(4)))
    assert len({model.path for model in pulled}) == 1
    assert digests(pulled[0].path) == digests(made_model.path)


async def test_sharded_models_arrive_with_their_index(aws, tmp_path):
    made = make_model(tmp_path / "sharded", shard_bytes=2 << 20)
    assert len(made.files) > 2
    uri = aws.upload(made.path, "pulling-sharded", "m")
    pulled = await weights.pull(uri, cache_dir=tmp_path / "cache")
    assert digests(pulled.path) == digests(made.path)
    assert pulled.manifest.parameters == made.parameters


@pytest.mark.parametrize("form", ["{}", "file://{}"])
async def test_a_mounted_folder_is_used_in_place(made_model, tmp_path, form):
    pulled = await weights.pull(form.format(made_model.path), cache_dir=tmp_path / "cache")
    assert pulled.path == made_model.path
    assert pulled.bytes_read == 0
    assert pulled.manifest.parameters == made_model.parameters
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("uri", ["", "http://example.com/m", "s3://", "file://host/share", "gs://b/p"])
async def test_an_address_of_no_known_form_is_refused_by_name(uri, tmp_path):
    with pytest.raises(weights.InvalidURIError, match="must be"):
        await weights.pull(uri, cache_dir=tmp_path)


async def test_a_missing_bucket_is_named(aws, tmp_path):
    with pytest.raises(weights.NotFoundError, match=r"NoSuchBucket.*'no-such-bucket'.*environment variables"):
        await weights.pull("s3://no-such-bucket/m", cache_dir=tmp_path)


async def test_a_wrong_prefix_shows_what_the_bucket_holds(aws, model_uri, tmp_path):
    with pytest.raises(weights.NotFoundError, match=r"no object there at http.*the bucket holds models/"):
        await weights.pull("s3://pulling/model/tiny", cache_dir=tmp_path)


async def test_no_credentials_says_where_it_looked(aws, model_uri, tmp_path, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(weights.NoCredentialsError, match="AWS_ACCESS_KEY_ID"):
        await weights.pull(model_uri, cache_dir=tmp_path)


async def test_an_endpoint_that_is_not_there_is_named(aws, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(weights.UnreachableError, match=r"127\.0\.0\.1:9"):
        await weights.pull("s3://pulling/m", cache_dir=tmp_path)


async def test_a_pickle_beside_safetensors_is_skipped_and_never_read(bucketed, tmp_path):
    uri = bucketed.server.upload(bucketed.made.path, "pulling-pickle", "m")
    put = bucketed.server.client().put_object
    put(Bucket="pulling-pickle", Key="m/training_args.bin", Body=b"\x80\x04.")
    pulled = await weights.pull(uri, cache_dir=tmp_path)
    assert [skipped.path for skipped in pulled.manifest.skipped] == ["training_args.bin"]
    assert not (pulled.path / "training_args.bin").exists()
    assert not any("training_args" in request.path for request in bucketed.proxy.requests)


async def test_weights_only_in_pickles_are_refused_before_anything_is_fetched(aws, made_model, tmp_path):
    client = aws.client()
    client.create_bucket(Bucket="pulling-pickles")
    for name in ("config.json", "pytorch_model.bin"):
        client.put_object(Bucket="pulling-pickles", Key=f"m/{name}", Body=b"{}")
    with pytest.raises(weights.RefusedError, match=r"pytorch_model\.bin: a pickle runs code"):
        await weights.pull("s3://pulling-pickles/m", cache_dir=tmp_path)
    assert not list((tmp_path / "blobs").iterdir())


@pytest.mark.parametrize("form", ["s3", "folder"])
async def test_an_address_above_the_models_names_the_folders_that_hold_models(
    aws, made_model, tmp_path, form
):
    for name in ("chat/llama", "chat/qwen", "embed"):
        shutil.copytree(made_model.path, tmp_path / "models" / name)
    (tmp_path / "models" / "notes.txt").write_text("ours")
    uri = (
        aws.upload(tmp_path / "models", "above-models", "").rstrip("/")
        if form == "s3"
        else str(tmp_path / "models")
    )
    with pytest.raises(weights.NotFoundError) as caught:
        await weights.pull(uri, cache_dir=tmp_path / "cache")
    assert str(caught.value) == (
        f"{uri}: is no model itself; the folders chat/llama, chat/qwen, embed below it hold models; must name one "
        f"of them, such as {uri}/chat/llama"
    )


async def test_an_index_that_climbs_out_is_refused(aws, tmp_path):
    made = make_model(tmp_path / "sharded", shard_bytes=2 << 20)
    index = made.path / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("model-00001", "../model-00001"))
    uri = aws.upload(made.path, "pulling-climbing", "m")
    with pytest.raises(weights.RefusedError, match="inside the model's folder"):
        await weights.pull(uri, cache_dir=tmp_path / "cache")


async def test_an_index_that_is_too_large_is_refused_before_it_is_read(made_model, tmp_path):
    shutil.copytree(made_model.path, tmp_path / "m")
    with (tmp_path / "m" / "model.safetensors.index.json").open("wb") as file:
        file.truncate(200_000_000)
    with pytest.raises(weights.RefusedError, match="has 200000000 bytes, must have at most 100000000"):
        await weights.pull(tmp_path / "m", cache_dir=tmp_path)


async def test_a_cache_that_cannot_be_written_is_named(aws, model_uri, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(weights.CacheError, match=r"cache folder = .*/file/cache, cannot be written"):
        await weights.pull(model_uri, cache_dir=tmp_path / "file" / "cache")


async def test_a_cancelled_pull_leaves_no_thread_and_no_scratch_file(aws, tmp_path):
    made = make_model(tmp_path / "large", size=80_000_000)
    uri = aws.upload(made.path, "pulling-large", "m")
    begun = asyncio.Event()
    pull = asyncio.create_task(
        weights.pull(
            uri, cache_dir=tmp_path / "cache", progress=lambda state: state.done_bytes and begun.set()
        )
    )
    await begun.wait()
    pull.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pull
    assert not list((tmp_path / "cache" / "tmp").iterdir())
    assert not [thread for thread in threading.enumerate() if "ThreadPoolExecutor" in thread.name]
