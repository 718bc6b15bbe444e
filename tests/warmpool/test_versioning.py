"""The promises of docs/upgrading.md about the WarmPool kind."""

import json
from pathlib import Path
from typing import Any

import yaml

import knative

CRD = yaml.safe_load((Path(knative.__file__).parent / "manifests" / "crds" / "warmpool.yaml").read_text())
EARLIER = json.loads((Path(__file__).parent / "data" / "warmpool_v1alpha1.json").read_text())


def fields(schema: dict[str, Any], path: str = "spec") -> dict[str, tuple[str, tuple[str, ...]]]:
    """Type and required fields of a schema and everything below it, by path."""
    found = {path: (schema.get("type", "any"), tuple(schema.get("required", ())))}
    for name, inner in schema.get("properties", {}).items():
        found |= fields(inner, f"{path}.{name}")
    for mark, key in (("[]", "items"), ("{}", "additionalProperties")):
        if isinstance(schema.get(key), dict):
            found |= fields(schema[key], path + mark)
    return found


def test_one_version_is_stored_and_it_is_served():
    stored = [version for version in CRD["spec"]["versions"] if version["storage"]]
    assert [(version["name"], version["served"]) for version in stored] == [("v1alpha1", True)]


def test_no_field_of_an_earlier_build_is_gone_retyped_or_newly_required():
    (version,) = [item for item in CRD["spec"]["versions"] if item["name"] == "v1alpha1"]
    now = fields(version["schema"]["openAPIV3Schema"]["properties"]["spec"])
    assert {path: kind for path, kind in EARLIER["fields"].items() if now.get(path, ("",))[0] != kind} == {}
    required = {f"{path}.{name}" for path, (_, names) in now.items() for name in names}
    of_earlier_parents = {path for path in required if path.rpartition(".")[0] in EARLIER["fields"]}
    assert of_earlier_parents <= set(EARLIER["required"])
