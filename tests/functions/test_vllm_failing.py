"""A replica that cannot become hot reports the cause in its readiness body and its log, and ends with status 1."""

import contextlib
import json
import shutil

import aiohttp
import pytest
import pytest_asyncio

from functions.engines.vllm import options
from functions.engines.vllm.engine_process import EngineStartError
from tests.functions.servers import stage_process, wait_until
from tests.functions.vllm_replica import NAME, PATIENCE, vllm_replica

pytestmark = pytest.mark.vllm


def _broken(made_model, folder, change):
    model = folder / "model"
    shutil.copytree(made_model.path, model)
    change(model)
    return model


def _cut(model):
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def _reshape(model):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 9}))


async def _failure(replica, http) -> dict:
    seen = {}

    async def failed() -> bool:
        with contextlib.suppress(aiohttp.ClientError):
            seen.update(await replica.view(http))
        return seen.get("state") == "failed"

    await wait_until(failed, PATIENCE)
    return seen


async def test_a_broken_checkpoint_fails_the_replica_with_its_cause(made_model, tmp_path, http):
    model = _broken(made_model, tmp_path, _cut)
    message = tmp_path / "termination-log"
    with vllm_replica(model, tmp_path, PILOTLIGHT_TERMINATION_LOG=str(message)) as replica:
        view = await _failure(replica, http)
        assert view["status"] == 503
        assert "model.safetensors" in view["cause"]
        assert replica.stage.wait(30) == 1
        assert "model.safetensors" in "".join(line.get("cause") or "" for line in replica.stage.lines())
        # The platform shows this instead of the end of the log.
        assert message.read_text() == view["cause"]


async def test_what_keeps_the_model_from_loading_fails_the_replica_with_its_cause(made_model, tmp_path, http):
    model = _broken(made_model, tmp_path, _reshape)
    with vllm_replica(model, tmp_path) as replica:
        view = await _failure(replica, http)
        assert "model.layers." in view["cause"]
        assert replica.stage.wait(30) == 1


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def causes(template, made_model):
    """Why engines with these options do not start, all forked from one template."""
    bad = {
        "unknown": {"nonsense": 3},
        "length": {"max-model-len": 100_000},
        "memory": {"kv-cache-memory-bytes": 1 << 50},
    }

    template.import_architecture(made_model.path)
    found: dict[str, str] = {}
    for name, option in bad.items():
        # Without enforce-eager a compilation would come first, which takes a minute.
        args = {"enforce-eager": True, **option}
        engine = template.fork(options.command_line(args, model=made_model.path, name="bad"))
        with pytest.raises(EngineStartError) as error:
            await engine.wait_serving()
        found[name] = str(error.value)
    return found


@pytest.mark.parametrize(
    ("name", "says"), [("unknown", "--nonsense"), ("length", "100000"), ("memory", "memory for kv")]
)
def test_a_bad_option_is_named_in_the_cause(causes, name, says):
    assert says in causes[name]
    assert "See root cause" not in causes[name]
    # vLLM's errors may come with all its parameters.
    assert "\n" not in causes[name]
    assert "input_value" not in causes[name]


def test_an_option_that_the_replica_sets_is_refused_before_anything_starts(made_model, tmp_path):
    with stage_process(
        "generate", tmp_path, PILOTLIGHT_MODEL_URI=str(made_model.path), PILOTLIGHT_ENGINE_ARGS='{"port": 1}'
    ) as stage:
        assert stage.wait(20) == 1
        assert any("port: is set by the replica" in (line.get("cause") or "") for line in stage.lines())


def test_a_model_that_is_not_there_fails_the_replica_with_its_address(tmp_path):
    with stage_process("generate", tmp_path, PILOTLIGHT_MODEL_URI=str(tmp_path / "nothing")) as stage:
        assert stage.wait(60) == 1
        assert any(str(tmp_path / "nothing") in (line.get("cause") or "") for line in stage.lines())


def test_asleep_is_refused_on_a_cpu(made_model, tmp_path):
    with stage_process(
        "generate",
        tmp_path,
        PILOTLIGHT_MODEL_URI=str(made_model.path),
        PILOTLIGHT_MODEL_NAME=NAME,
        PILOTLIGHT_WARMTH="asleep",
    ) as stage:
        assert stage.wait(PATIENCE) == 1
        assert any("no sleep mode on CPUs" in (line.get("cause") or "") for line in stage.lines())
