"""Agent files whose stages run in orchestrate's process: what is rendered, and what is refused at which line."""

import json

import pytest

from functions.settings import FunctionSettings
from pilotlight.agent import AgentFileError
from pilotlight.agent_reader import load_agent
from pilotlight.compile import compile_agent, compile_for_cluster
from pilotlight.doctor.needs import stages
from tests.pilotlight.test_agent_graphs import environment, write

AGENT = """
apiVersion: pilotlight.dev/v1alpha1
kind: Agent
metadata: {name: support}
spec:
  image: registry.example/functions:1
  auth: {type: keys}
  mesh: {type: istio}
  model: {uri: s3://models/small, name: small}
  cache: {persistentVolumeClaim: {claimName: weights}}
  s3: {endpoint: http://minio:9000}
  warmPool: {windows: [{name: day, days: [Mon-Fri], from: "08:00", to: "19:00", replicas: 1}]}
  stages:
    - name: ingest
      kind: ingest
      colocate: true
      config: {maxCharacters: 8000}
    - {name: generate, kind: generate}
    - {name: post, kind: postprocess, colocate: true}
    - {name: front, kind: orchestrate}
  triggers:
    - name: questions
      source: {sqs: {queue: questions}}
"""


def test_colocated_stages_have_no_objects_and_orchestrate_has_what_they_need(tmp_path):
    agent = load_agent(write(tmp_path, AGENT))
    objects = [*compile_agent(agent), *compile_for_cluster(agent)]
    named = {(obj["kind"], obj["metadata"]["name"]) for obj in objects}
    assert {name for kind, name in named if kind == "Service"} == {"generate-support", "front-support"}
    assert {name for kind, name in named if kind == "WarmPool"} == {"generate-support", "front-support"}
    assert not any(part in json.dumps(objects) for part in ("ingest-support", "post-support"))

    env = environment(objects, "front-support")
    told = FunctionSettings.parse({"PILOTLIGHT_STAGES": env["PILOTLIGHT_STAGES"]}).stages
    assert [(stage.name, stage.colocated is not None) for stage in told] == [
        ("ingest", True),
        ("generate", False),
        ("post", True),
    ]
    assert told[0].colocated.config == {"maxCharacters": 8000}
    assert told[0].colocated.model_uri == "s3://models/small"
    assert "PILOTLIGHT_GRAPH" not in env, "stages in one line need none"
    assert env["AWS_ENDPOINT_URL"] == "http://minio:9000"
    assert env["PILOTLIGHT_CACHE_DIR"] == "/var/cache/pilotlight"
    service = next(obj for obj in objects if obj["metadata"]["name"] == "front-support")
    volumes = service["spec"]["template"]["spec"]["volumes"]
    assert {"claimName": "weights"} in [volume.get("persistentVolumeClaim") for volume in volumes]
    assert [need.service for need in stages([agent])] == ["generate-support", "front-support"]

    alone = load_agent(write(tmp_path, AGENT.replace("      colocate: true\n", "")))
    front = environment(compile_agent(alone), "front-support")
    assert "AWS_ENDPOINT_URL" not in front, "nothing in it reads the model any more"


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("config: {maxCharacters: 8000}", "image: mine", 14, "image is for stages that become a Service"),
        ("config: {maxCharacters: 8000}", "scaling: {max: 2}", 14, "scaling is for stages"),
        ("config: {maxCharacters: 8000}", "warmPool: {}", 14, "warmPool is for stages"),
        ("config: {maxCharacters: 8000}", "attempts: 2", 14, "attempts repeats a call over HTTP"),
        ("kind: generate}", "kind: generate, colocate: true}", 18, "is for kinds ingest and postprocess"),
        (
            "    - {name: front, kind: orchestrate}\n",
            "",
            16,
            "colocate: there is no stage of kind orchestrate",
        ),
        ("queue: questions}}", "queue: questions}}\n      stage: post", 5, "there is no stage 'post'"),
    ],
)
def test_what_cannot_be_colocated_is_refused_with_its_line(tmp_path, old, new, line, said):
    assert old in AGENT
    path = write(tmp_path, AGENT.replace(old, new))
    with pytest.raises(AgentFileError) as refused:
        load_agent(path)
    found = [one for one in str(refused.value).splitlines() if said in one]
    assert found, str(refused.value)
    assert found[0].startswith(f"{path}:{line}: "), str(refused.value)
