"""The agent file: what is accepted, what it compiles to, and how refusals read."""

import copy
import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from knative.autoscaling import annotations
from pilotlight.agent import AgentFileError
from pilotlight.agent_reader import load_agent
from pilotlight.compile import compile_agent

EXAMPLE = Path(__file__).parents[2] / "examples" / "support" / "agent.yaml"

MINIMAL: dict[str, Any] = {
    "apiVersion": "pilotlight.dev/v1alpha1",
    "kind": "Agent",
    "metadata": {"name": "a"},
    "spec": {
        "model": {"uri": "s3://models/llama"},
        "stages": [{"name": "generate", "kind": "generate"}],
    },
}


def write(tmp_path: Path, document: Any) -> Path:
    path = tmp_path / "agent.yaml"
    path.write_text(document if isinstance(document, str) else yaml.safe_dump(document, sort_keys=False))
    return path


def changed(**stage: Any) -> dict[str, Any]:
    document = copy.deepcopy(MINIMAL)
    document["spec"]["stages"][0] |= stage
    return document


def refusal(path: Path) -> str:
    with pytest.raises(AgentFileError) as caught:
        load_agent(path)
    return str(caught.value)


def objects(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    return {(obj["kind"], obj["metadata"]["name"]): obj for obj in compile_agent(load_agent(path))}


def test_example_compiles_to_one_service_and_one_pool_for_each_stage():
    found = objects(EXAMPLE)
    stages = ["ingest", "generate", "postprocess", "orchestrate"]
    assert [key for key in found if key[0] == "Service"] == [("Service", f"{s}-support") for s in stages]
    assert [key for key in found if key[0] == "WarmPool"] == [("WarmPool", f"{s}-support") for s in stages]


def test_model_stage_carries_gpu_limit_engine_options_and_concurrency():
    template = objects(EXAMPLE)["Service", "generate-support"]["spec"]["template"]
    container = template["spec"]["containers"][0]
    env = {entry["name"]: entry["value"] for entry in container["env"]}
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    assert container["command"] + container["args"] == ["python", "-m", "functions", "generate"]
    assert yaml.safe_load(env["PILOTLIGHT_ENGINE_ARGS"])["max-model-len"] == 1024
    assert template["spec"]["containerConcurrency"] == 32


def test_the_first_byte_may_take_as_long_as_the_whole():
    spec = objects(EXAMPLE)["Service", "generate-support"]["spec"]["template"]["spec"]
    assert (spec["timeoutSeconds"], spec["responseStartTimeoutSeconds"]) == (600, 600)


def test_every_annotation_of_the_example_is_one_that_knative_accepts_and_knows():
    for (kind, _), obj in objects(EXAMPLE).items():
        if kind == "Service":
            found = obj["spec"]["template"]["metadata"]["annotations"]
            assert annotations.validate(found) == ()
            limit = obj["spec"]["template"]["spec"]["containerConcurrency"]
            assert annotations.warnings(found, container_concurrency=limit) == ()
            assert "annotations" not in obj["metadata"]


def test_orchestrate_knows_the_other_stages_in_order_by_cluster_address():
    container = objects(EXAMPLE)["Service", "orchestrate-support"]["spec"]["template"]["spec"]["containers"][
        0
    ]
    env = {entry["name"]: entry["value"] for entry in container["env"]}
    stages = yaml.safe_load(env["PILOTLIGHT_STAGES"])
    assert [stage["kind"] for stage in stages] == ["ingest", "generate", "postprocess"]
    assert stages[0]["url"] == "http://ingest-support.default.svc.cluster.local"


def test_pool_of_a_stage_goes_before_the_pool_of_the_agent(tmp_path):
    window = {"name": "w", "from": "08:00", "to": "10:00", "replicas": 1}
    document = changed(warmPool={"windows": [window | {"name": "own"}]})
    document["spec"]["warmPool"] = {"windows": [window]}
    pool = objects(write(tmp_path, document))["WarmPool", "generate-a"]
    assert [w["name"] for w in pool["spec"]["windows"]] == ["own"]
    assert pool["spec"]["target"] == "generate-a"


def test_a_rollout_of_a_stage_is_in_its_pool_and_leaves_the_services_traffic_out(tmp_path):
    found = objects(write(tmp_path, changed(rollout={"steps": [10, 100], "margins": {"ttft": "off"}})))
    spec = found["WarmPool", "generate-a"]["spec"]
    assert spec["rollout"] == {"steps": [10, 100], "margins": {"ttft": "off"}}
    assert "traffic" not in found["Service", "generate-a"]["spec"]
    assert objects(write(tmp_path, changed(rollout={})))["WarmPool", "generate-a"]["spec"]["rollout"] == {}


def test_the_prompts_of_a_quality_check_come_from_a_file_beside_the_agent_file(tmp_path):
    (tmp_path / "checks.yaml").write_text("- Say hello\n- {prompt: '2 + 2?', contains: ['4']}\n")
    found = objects(write(tmp_path, changed(rollout={"quality": {"promptsFile": "checks.yaml"}})))
    assert found["WarmPool", "generate-a"]["spec"]["rollout"]["quality"] == {
        "prompts": [{"prompt": "Say hello"}, {"prompt": "2 + 2?", "contains": ["4"]}]
    }
    (tmp_path / "checks.yaml").write_text("hello")
    for name, says in (("checks.yaml", "must be a list of prompts"), ("none.yaml", "No such file")):
        told = refusal(write(tmp_path, changed(rollout={"quality": {"promptsFile": name}})))
        assert f"spec.stages.0.rollout.quality: promptsFile = '{name}': {says}" in told


def test_defaults_leave_knatives_own_defaults_in_force(tmp_path):
    template = objects(write(tmp_path, MINIMAL))["Service", "generate-a"]["spec"]["template"]
    assert not [key for key in template["metadata"]["annotations"] if "autoscaling" in key]


DAILY = {"from": "08:00", "to": "09:00", "replicas": 1}


@pytest.mark.parametrize(
    ("stage", "line", "says"),
    [
        ({"scaling": {"min": 3, "max": 2}}, 11, "min (3) must be at most max (2)"),
        ({"scaling": {"target": 9, "containerConcurrency": 8}}, 11, "target (9) must be at most"),
        ({"scaling": {"window": "60"}}, 12, 'scaling.window = "60": must be a duration such as'),
        ({"scaling": {"windw": "60s"}}, 12, "scaling.windw: no such field; known here: min, max, initial"),
        ({"scaling": {"window": "2h"}}, 11, "autoscaling.knative.dev/window"),
        (
            {"engine": {"args": {"--max-model-len": 9}}},
            12,
            "without leading dashes and with '-': max-model-len",
        ),
        ({"engine": {"args": {"max_num_seqs": 9}}}, 12, "max-num-seqs"),
        (
            {"engine": {"args": {"max-num-seqs": 4}}, "scaling": {"containerConcurrency": 8}},
            9,
            "containerConcurrency (8) must be at most engine.args.max-num-seqs (4)",
        ),
        ({"resources": {"limits": {"nvidia.com/gpu": "0.5"}}}, 11, "must be a whole number, not 0.5"),
        ({"resources": {"requests": {"nvidia.com/gpu": 1}}}, 11, "must stand in limits"),
        ({"resources": {"limits": {"memory": "lots"}}}, 13, 'memory = "lots": must be a Kubernetes quantity'),
        ({"rollout": {"steps": [5, 5, 100]}}, 12, "must be whole percentages that rise"),
        ({"rollout": {"pause": "0s"}}, 12, 'pause = "0s": must be from "1s" to "7d"'),
        ({"rollout": {"margins": {"errors": "200%"}}}, 13, "rollout.margins.errors"),
        ({"kind": "generat"}, 10, "'ingest', 'generate'"),
        ({"kind": "container"}, 9, "needs an image"),
        ({"name": "Generate"}, 9, "lower-case letters"),
        ({"command": ["sh"]}, 9, "command and args are for kinds container and tool"),
        (
            {"timeoutSeconds": 60, "responseStartTimeoutSeconds": 61},
            9,
            "responseStartTimeoutSeconds (61) must be at most timeoutSeconds (60)",
        ),
        (
            {"engine": {"args": {"hf-overrides": {"since": dt.date(2026, 1, 1)}}}},
            13,
            "engine.args.hf-overrides: must be a text, a number, true, false, null, a list or a mapping",
        ),
        (
            {"warmPool": {"windows": [{"name": "w", "from": "8", "to": "9:00", "replicas": 1}]}},
            14,
            "windows.0.from",
        ),
        (
            {"warmPool": {"windows": [{"days": ["Funday"], "name": "w", **DAILY}]}},
            13,
            "spec.stages.0.warmPool.windows.0.days",
        ),
        (
            {
                "warmPool": {
                    "exceptions": [{"end": "2026-12-01T00:00", "start": "2026-12-02T00:00", "name": "e"}]
                }
            },
            13,
            "spec.stages.0.warmPool.exceptions.0.end",
        ),
        (
            {"warmPool": {"windows": [{"name": False, **DAILY}]}},
            13,
            "warmPool.windows.0.name = false: must be text in quotes: YAML reads off, no, on",
        ),
        (
            {
                "scaling": {"max": 1},
                "warmPool": {"windows": [{"name": "w", "from": "08:00", "to": "09:00", "replicas": 2}]},
            },
            9,
            "window 'w' holds 2 replicas, but scaling.max is 1",
        ),
    ],
)
def test_refusal_names_file_line_field_and_what_is_right(tmp_path, stage, line, says):
    path = write(tmp_path, changed(**stage))
    first = refusal(path).splitlines()[0]
    assert first.startswith(f"{path}:{line}: spec.stages.0")
    assert says in first


def test_all_problems_of_a_file_are_told_at_once(tmp_path):
    document = changed(scaling={"min": -1, "window": "x"})
    document["metadata"]["name"] = "A b"
    assert len(refusal(write(tmp_path, document)).splitlines()) == 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("a: [", ":1: is no YAML"),
        ("- 1\n", "must be a mapping with apiVersion"),
        ("a: 1\nb:\n  c: 1\n  c: 2\n", ":4: b.c: stands twice"),
        ("a: 1\n---\nb: 2\n", "is no YAML"),
        ("a: \x00\n", "is no YAML"),
    ],
)
def test_what_is_no_agent_file_is_refused_with_its_place(tmp_path, text, says):
    path = write(tmp_path, text)
    assert says in refusal(path)
    assert refusal(path).startswith(str(path))


def test_missing_file_is_named(tmp_path):
    assert "No such file" in refusal(tmp_path / "none.yaml")


def test_model_is_required_by_the_stages_that_need_it(tmp_path):
    document = copy.deepcopy(MINIMAL)
    del document["spec"]["model"]
    assert "model.uri is required by a stage of kind generate" in refusal(write(tmp_path, document))
    document["spec"]["model"] = {"name": "m"}
    assert "model.uri is required by a stage of kind generate" in refusal(write(tmp_path, document))


OPENAI = {"type": "openai", "args": {"base-url": "http://127.0.0.1:8080/v1"}}


def test_a_model_at_a_base_url_needs_a_name_and_no_uri(tmp_path):
    document = changed(engine=OPENAI)
    document["spec"]["stages"].insert(0, {"name": "ingest", "kind": "ingest"})
    document["spec"]["model"] = {"name": "m"}
    found = objects(write(tmp_path, document))
    for service in ("ingest-a", "generate-a"):
        (container,) = found["Service", service]["spec"]["template"]["spec"]["containers"]
        environment = {entry["name"]: entry["value"] for entry in container["env"]}
        assert environment["PILOTLIGHT_MODEL_NAME"] == "m"
        assert "PILOTLIGHT_MODEL_URI" not in environment


def test_a_model_at_a_base_url_may_be_named_in_the_engines_options(tmp_path):
    document = changed(engine={"type": "openai", "args": {**OPENAI["args"], "model": "m"}})
    del document["spec"]["model"]
    assert ("Service", "generate-a") in objects(write(tmp_path, document))


def test_a_model_at_a_base_url_without_a_name_is_refused(tmp_path):
    document = changed(engine=OPENAI)
    del document["spec"]["model"]
    assert "model.name is required by engine openai" in refusal(write(tmp_path, document))


def test_options_may_be_lists_and_mappings(tmp_path):
    args = {"lora-modules": ["a=b", {"name": "c", "path": "d"}], "override-generation-config": {"top_p": 0.5}}
    document = changed(engine={"type": "vllm", "args": args})
    (container,) = objects(write(tmp_path, document))["Service", "generate-a"]["spec"]["template"]["spec"][
        "containers"
    ]
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    assert json.loads(environment["PILOTLIGHT_ENGINE_ARGS"]) == args


def test_one_mistake_in_an_option_is_one_line(tmp_path):
    path = write(tmp_path, changed(engine={"args": {"hf-overrides": {"since": dt.date(2026, 1, 1)}}}))
    assert len(refusal(path).splitlines()) == 1


@pytest.mark.parametrize(
    ("stage", "spec"),
    [
        ({"timeoutSeconds": 3600}, {"timeoutSeconds": 3600, "responseStartTimeoutSeconds": 3600}),
        (
            {"timeoutSeconds": 3600, "responseStartTimeoutSeconds": 900},
            {"timeoutSeconds": 3600, "responseStartTimeoutSeconds": 900},
        ),
        ({"responseStartTimeoutSeconds": 200}, {"responseStartTimeoutSeconds": 200}),
        ({"timeoutSeconds": 60}, {"timeoutSeconds": 60}),
    ],
)
def test_timeouts_are_passed_to_the_cluster_which_has_the_limit(tmp_path, stage, spec):
    found = objects(write(tmp_path, changed(**stage)))["Service", "generate-a"]["spec"]["template"]["spec"]
    assert {key: value for key, value in found.items() if "Timeout" in key or "timeout" in key} == spec


def test_names_that_make_a_service_name_too_long_are_refused(tmp_path):
    document = copy.deepcopy(MINIMAL)
    document["metadata"]["name"] = "a" * 55
    assert "shorten the agent's or the stage's name" in refusal(write(tmp_path, document))


def test_same_stage_name_twice_is_refused(tmp_path):
    document = copy.deepcopy(MINIMAL)
    document["spec"]["stages"].append({"name": "generate", "kind": "postprocess"})
    assert "'generate' stands twice" in refusal(write(tmp_path, document))
