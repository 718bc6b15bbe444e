"""Write the schemas that the tests check manifests with: those of a real API server, reduced.

    python scripts/kubernetes_schemas.py KUBECONFIG tests/pilotlight/data/kubernetes_schemas.json

Of the core kinds the server's OpenAPI documents, of the others their CustomResourceDefinitions, which must
be installed there. Texts, formats, CEL rules and `status` are left out, and fields that a schema does not
name are refused, as `fieldValidation=Strict` does.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

Schema = dict[str, Any]

CORE = {
    "v1": [
        "ConfigMap",
        "Namespace",
        "PersistentVolume",
        "PersistentVolumeClaim",
        "Secret",
        "Service",
        "ServiceAccount",
    ],
    "apps/v1": ["DaemonSet", "Deployment"],
    "batch/v1": ["CronJob", "Job"],
    "networking.k8s.io/v1": ["NetworkPolicy"],
    "rbac.authorization.k8s.io/v1": ["ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"],
    "storage.k8s.io/v1": ["StorageClass"],
}
CUSTOM = ("services.serving.knative.dev", "nodepools.karpenter.sh", "ec2nodeclasses.karpenter.k8s.aws")
COPIED = [
    "type",
    "required",
    "enum",
    "pattern",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "minLength",
    "maxLength",
    "$ref",
]
NESTED = ("items", "not", "oneOf", "anyOf", "allOf")
META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"


class Reducer:
    """Reduces schemas, and those that they refer to.

    Args:
        components: the server's schemas by name.
    """

    def __init__(self, components: dict[str, Schema]) -> None:
        self._components = components
        self.definitions: dict[str, Any] = {}

    def refer(self, name: str) -> Schema:
        """A reference to a component, which is reduced with the first one."""
        short = name.removeprefix("io.k8s.api.").removeprefix("io.k8s.apimachinery.pkg.")
        if short not in self.definitions:
            self.definitions[short] = None  # a schema may refer to itself
            self.definitions[short] = self.reduce(self._components[name])
        return {"$ref": f"#/$defs/{short}"}

    def reduce(self, schema: Any) -> Any:
        """A schema, or a list of them."""
        if isinstance(schema, list):
            return [self.reduce(item) for item in schema]
        if "$ref" in schema:
            return self.refer(schema["$ref"].rsplit("/", 1)[1])
        found = {key: schema[key] for key in COPIED if key in schema}
        found |= {key: self.reduce(schema[key]) for key in NESTED if key in schema}
        further = schema.get("additionalProperties")
        if further is not None:
            found["additionalProperties"] = self.reduce(further) if isinstance(further, dict) else further
        if "properties" in schema:
            found["properties"] = {key: self.reduce(inner) for key, inner in schema["properties"].items()}
            if further is None and not schema.get("x-kubernetes-preserve-unknown-fields"):
                found["additionalProperties"] = False
        if schema.get("x-kubernetes-int-or-string"):
            found.pop("type", None)
            found.setdefault("anyOf", [{"type": "integer"}, {"type": "string"}])
        if schema.get("nullable") and "type" in found:
            found["type"] = [found["type"], "null"]
        if list(found) == ["allOf"] and len(found["allOf"]) == 1:
            return found["allOf"][0]  # how OpenAPI gives a reference a default
        return found


def main() -> None:
    """Read from the cluster that the first argument names, write the file that the second one names."""
    kubeconfig, target = sys.argv[1], Path(sys.argv[2])

    def read(path: str) -> Any:
        command = ["kubectl", "--kubeconfig", kubeconfig, "get", "--raw", path]
        return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)

    components: dict[str, Schema] = {}
    for version in CORE:
        group = "api" if "/" not in version else "apis"
        components |= read(f"/openapi/v3/{group}/{version}")["components"]["schemas"]
    components[META]["properties"].pop("managedFields", None)
    reducer = Reducer(components)
    kinds = {}
    for version, names in CORE.items():
        group, _, number = version.rpartition("/")
        for name in names:
            wanted = {"group": group, "version": number, "kind": name}
            component = next(
                key
                for key, schema in components.items()
                if wanted in schema.get("x-kubernetes-group-version-kind", ())
            )
            components[component]["properties"].pop("status", None)
            kinds[f"{version} {name}"] = reducer.refer(component)
    for name in CUSTOM:
        spec = read(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}")["spec"]
        version = next(item for item in spec["versions"] if item["storage"])
        schema = version["schema"]["openAPIV3Schema"]
        schema["properties"].pop("status", None)
        schema["properties"]["metadata"] = {"$ref": f"/{META}"}
        kinds[f"{spec['group']}/{version['name']} {spec['names']['kind']}"] = reducer.reduce(schema)
    server = read("/version")["gitVersion"]
    lines = [f'"about": {json.dumps(f"By scripts/kubernetes_schemas.py, from Kubernetes {server}.")}']
    for title, schemas in (("kinds", kinds), ("$defs", reducer.definitions)):
        inner = ",\n".join(f"{json.dumps(key)}: {_compact(schemas[key])}" for key in sorted(schemas))
        lines.append(f'"{title}": {{\n{inner}\n}}')
    target.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def _compact(schema: Any) -> str:
    return json.dumps(schema, separators=(",", ":"), sort_keys=True)


if __name__ == "__main__":
    main()
