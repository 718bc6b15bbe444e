"""`s3` of an agent file: environment, Secret and certificates of the stages that read the model."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from pilotlight.agent import AgentFileError
from pilotlight.agent_reader import load_agent
from pilotlight.compile import compile_agent

EXAMPLE = Path(__file__).parents[2] / "examples" / "support" / "agent.yaml"
WHOLE = {
    "endpoint": "https://s3.example.com/",
    "region": "eu-central-1",
    "credentialsSecret": "s3-credentials",
    "caBundle": {"configMap": "ca-bundle"},
}


def containers(tmp_path: Path, s3: dict[str, Any], **spec: Any) -> dict[str, tuple[dict, dict]]:
    """Pod spec and container of each stage."""
    document = yaml.safe_load(EXAMPLE.read_text())
    document["spec"]["stages"][1]["engine"] = {"type": "onnx"}
    document["spec"] |= {"s3": s3, **spec}
    path = tmp_path / "agent.yaml"
    path.write_text(yaml.safe_dump(document))
    found = [obj for obj in compile_agent(load_agent(path)) if obj["kind"] == "Service"]
    pods = {o["metadata"]["name"].removesuffix("-support"): o["spec"]["template"]["spec"] for o in found}
    return {name: (pod, pod["containers"][0]) for name, pod in pods.items()}


def test_stages_that_read_the_model_know_endpoint_credentials_and_authorities(tmp_path):
    found = containers(tmp_path, WHOLE)
    for stage in ("ingest", "generate"):
        pod, container = found[stage]
        env = {item["name"]: item["value"] for item in container["env"]}
        assert env["AWS_ENDPOINT_URL"] == "https://s3.example.com"
        assert env["AWS_DEFAULT_REGION"] == "eu-central-1"
        assert env["AWS_CA_BUNDLE"] == "/etc/pilotlight/s3-ca/ca.crt"
        assert container["envFrom"] == [{"secretRef": {"name": "s3-credentials"}}]
        (volume,) = pod["volumes"]
        assert volume["configMap"] == {"name": "ca-bundle", "items": [{"key": "ca.crt", "path": "ca.crt"}]}
        assert container["volumeMounts"] == [
            {"name": volume["name"], "mountPath": "/etc/pilotlight/s3-ca", "readOnly": True}
        ]
    for stage in ("postprocess", "orchestrate"):
        assert "s3-credentials" not in str(found[stage])
        assert "AWS_" not in str(found[stage])


def test_env_of_the_file_wins_and_a_secret_may_hold_the_authorities(tmp_path):
    s3 = {"region": "eu-central-1", "caBundle": {"secret": "ca", "key": "root.pem"}}
    pod, container = containers(tmp_path, s3, env={"AWS_DEFAULT_REGION": "us-east-1"})["generate"]
    env = {item["name"]: item["value"] for item in container["env"]}
    assert env["AWS_DEFAULT_REGION"] == "us-east-1"
    assert "AWS_ENDPOINT_URL" not in env
    assert pod["volumes"][0]["secret"]["secretName"] == "ca"
    assert "envFrom" not in container


@pytest.mark.parametrize(
    ("s3", "expected"),
    [
        ({"endpoint": "s3.example.com"}, 'spec.s3.endpoint = "s3.example.com": must be a URL such as'),
        ({"endpoint": "https://me:secret@s3"}, "must hold no credentials: credentialsSecret names"),
        ({"caBundle": {}}, "spec.s3.caBundle: must have exactly one of configMap, secret"),
        ({"caBundle": {"secret": "a", "configMap": "b"}}, "must have exactly one of configMap, secret"),
        ({"credentialsSecret": "A_B"}, 'spec.s3.credentialsSecret = "A_B": String should match'),
        ({"accessKey": "x"}, "spec.s3.accessKey: no such field; known here: endpoint, region"),
    ],
)
def test_refusals_name_field_and_what_is_right(tmp_path, s3, expected):
    with pytest.raises(AgentFileError) as caught:
        containers(tmp_path, s3)
    assert expected in str(caught.value)


def test_the_example_of_the_guide_is_accepted(tmp_path):
    guide = (Path(__file__).parents[2] / "docs" / "clusters.md").read_text()
    block = guide.split("\n## S3 and its credentials\n")[1].split("```yaml\n")[1].split("```")[0]
    spec = yaml.safe_load(block)["spec"]
    pod, container = containers(tmp_path, spec.pop("s3"), **spec)["generate"]
    assert pod["serviceAccountName"] == "reads-s3"
    assert container["envFrom"] == [{"secretRef": {"name": "s3-credentials"}}]
