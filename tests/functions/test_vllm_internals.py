"""What Pilotlight assumes about the inside of vLLM still holds; fails when a release of vLLM changes it."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import weights
from functions.contract import Parameters
from functions.engine import GenerateRequest
from functions.engines.vllm import options
from functions.engines.vllm.client import VllmEngine
from functions.engines.vllm.engine_process import EngineStartError
from tests.functions.servers import wait_until

pytestmark = pytest.mark.vllm

NAMES = """
import json, sys
from functions.engines.vllm.vllm_internals import command_line, imports
imports.set_environment()
import importlib
missing = []
def has(module, *names):
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        missing.append(f"{module}: {error}")
        return
    missing.extend(f"{module}.{name}" for name in names if not hasattr(found, name))
for module in imports.TEMPLATE_MODULES:
    has(module)
has("vllm.entrypoints.launchers.api_server.entry", "build_and_serve")
has("vllm.entrypoints.launchers.launcher", "setup_server")
has(command_line.cli_args().__name__, "make_arg_parser", "validate_parsed_serve_args", "propagate_flash_late_interaction")
has("vllm.engine.arg_utils", "AsyncEngineArgs")
has("vllm.usage.usage_lib", "UsageContext")
has("vllm.utils.argparse_utils", "FlexibleArgumentParser")
has("vllm.platforms", "current_platform")
has("vllm.model_executor.models", "ModelRegistry")
has("vllm.v1.engine.async_llm", "AsyncLLM")
has("vllm.version", "__version__")
args = command_line.parse(["--model", "any", "--uds", "/nowhere"])
for name in ("distributed_executor_backend", "tensor_parallel_size", "pipeline_parallel_size",
             "data_parallel_size", "uds", "disable_uvicorn_access_log", "enable_sleep_mode",
             "kv_cache_memory_bytes", "served_model_name"):
    if not hasattr(args, name):
        missing.append(f"option {name}")
print(json.dumps(missing))
"""


def test_every_name_that_is_used_exists():
    done = subprocess.run(
        [sys.executable, "-c", NAMES], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.strip().rpartition("\n")[2]) == []


@pytest.fixture(scope="module")
def argv(made_model):
    args = {"max-model-len": 1024, "enforce-eager": True, "kv-cache-memory-bytes": 64 << 20}
    return options.command_line(args, model=made_model.path, name="internals")


@pytest.mark.asyncio(loop_scope="session")
async def test_one_import_serves_every_process_of_every_engine(template, made_model, argv, tmp_path):
    imported = await template.imported()
    assert imported.device == "cpu"
    assert imported.device_name
    template.import_architecture(made_model.path)
    process = psutil.Process(template.pid)
    # torch's threads would not survive the fork.
    assert process.num_threads() == 1

    engine = template.fork(argv)
    await engine.wait_serving()

    # Every start pays for what an engine imports by itself.
    late = [name for name in engine.late_imports if name.startswith(("vllm.", "torch.", "transformers."))]
    assert len(late) <= 10, late
    assert engine.pid is not None
    assert psutil.Process(engine.pid).ppid() == template.pid
    (core,) = engine.core_pids
    assert psutil.Process(core).ppid() == engine.pid
    # Forked, not spawned: the same program, started once.
    assert psutil.Process(core).exe() == process.exe()
    assert _mapped(core) & _mapped(template.pid)
    assert not [p for p in process.children(recursive=True) if "spawn_main" in " ".join(p.cmdline())]
    assert engine.load_seconds > 0
    assert engine.directory.stat().st_mode & 0o077 == 0

    await engine.stop()
    assert not engine.directory.exists()
    assert process.children() == []

    bad = template.fork((*argv, "--max-num-seqs=none"))
    with pytest.raises(EngineStartError, match="max-num-seqs"):
        await bad.wait_serving()
    # Compiled output goes to the given folder. Waiting for all of it would take a minute.
    compiles = [argument for argument in argv if argument != "--enforce-eager"]
    compiling = template.fork(compiles, cache_root=tmp_path)
    await wait_until(lambda: any((tmp_path / "torch_compile_cache").rglob("*")), 60)
    assert compiling.pid != engine.pid
    compiling.kill()
    await compiling.gone


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a processor for each rank")
async def test_tensor_parallel_ranks_share_one_download_and_give_the_same_tokens(
    template, made_model, tmp_path, aws
):
    uri = aws.upload(made_model.path, "tensor-parallel", "m")
    total = (made_model.path / "model.safetensors").stat().st_size
    template.import_architecture(made_model.path)
    texts = {}
    for ranks in (2, 1):
        pulled = await weights.pull(uri, cache_dir=tmp_path / str(ranks), with_weights=False)
        args = {
            "max-model-len": 64,
            "enforce-eager": True,
            "dtype": "float32",
            "kv-cache-memory-bytes": 64 << 20,
            "load-format": "pilotlight",
            "tensor-parallel-size": ranks,
        }
        process = template.fork(options.command_line(args, model=pulled.path, name="m"))
        await process.wait_serving()
        engine = VllmEngine.on(process.socket, process.dead, model="m", version="")
        request = GenerateRequest("r", "the sea", Parameters(max_tokens=16, temperature=0.0))
        texts[ranks] = "".join([chunk.text async for chunk in engine.generate(request)])
        await wait_until(lambda p=process, n=ranks: len(p.reads) == n)
        assert total * 0.9 < sum(read.from_source for read in process.reads) <= total
        await engine.close()
        await process.stop()
        pulled.release()
    assert texts[1] == texts[2] != ""


def _mapped(pid: int) -> set[str]:
    """Address ranges of vLLM's own library: equal in processes that were forked, random in others."""
    with contextlib.suppress(OSError):
        return {
            line.split()[0]
            for line in Path(f"/proc/{pid}/maps").read_text().splitlines()
            if "/vllm/_C" in line
        }
    return set()
