"""Validation of containers, their resources and their probes, in the words of Knative and Kubernetes."""

from typing import Any

import pytest

from knative.local.apiserver.admission import field_errors, pod_spec
from knative.local.apiserver.admission.serving_config import ServingConfig

MAIN = {"name": "main", "image": "x", "ports": [{"containerPort": 8080}]}
CLAIMS = {
    "kubernetes.podspec-persistent-volume-claim": "enabled",
    "kubernetes.podspec-persistent-volume-write": "enabled",
}
PROBING = {"multi-container-probing": "enabled"}


def refused(spec: dict[str, Any], **flags: str) -> str:
    return field_errors.text(pod_spec.revision_spec(spec, ServingConfig(flags=flags)))


def pair(**beside: Any) -> dict[str, Any]:
    return {"containers": [MAIN, {"name": "beside", "image": "x", **beside}]}


def mounted(source: dict[str, Any], **mount: Any) -> dict[str, Any]:
    container = {**MAIN, "volumeMounts": [{"name": "v", "mountPath": "/v", **mount}]}
    return {"containers": [container], "volumes": [{"name": "v", **source}]}


def resources(**amounts: Any) -> dict[str, Any]:
    return {"containers": [{"name": "main", "image": "x", "resources": amounts}]}


@pytest.mark.parametrize(
    ("spec", "flags", "text"),
    [
        (pair(), {}, ""),
        (pair(env=[{"name": "PORT", "value": "1"}]), {}, ""),
        (
            {"containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "x"}]},
            {},
            "missing field(s): containers[*].ports",
        ),
        (
            pair(ports=[{"containerPort": 8081}]),
            {},
            (
                "more than one container port is set: containers[*].ports\n"
                "Only a single port is allowed across all containers"
            ),
        ),
        (
            {"containers": [MAIN], "securityContext": {"fsGroup": 1, "fsGroupChangePolicy": "Always"}},
            {"kubernetes.podspec-securitycontext": "enabled"},
            "must not set the field(s): securityContext.fsGroupChangePolicy",
        ),
        (
            pair(securityContext={"capabilities": {"add": ["NET_BIND_SERVICE"]}}),
            {},
            "must not set the field(s): containers[1].securityContext.capabilities.add",
        ),
        (
            mounted({"persistentVolumeClaim": {"claimName": "c", "readOnly": True}}),
            CLAIMS,
            "volume is readOnly but volume mount is not: containers[0].volumeMounts[0].readOnly",
        ),
        (
            mounted({"emptyDir": {}}, mountPropagation="HostToContainer"),
            {},
            "must not set the field(s): containers[0].volumeMounts[0].mountPropagation",
        ),
        (
            mounted({"emptyDir": {}}, mountPropagation="Bidirectional"),
            {"kubernetes.podspec-volumes-mount-propagation": "enabled"},
            (
                "mount propagation should be set to None or HostToContainer: "
                "containers[0].volumeMounts[0].mountPropagation"
            ),
        ),
        (pair(), {"multi-container": "disabled"}, "multi-container is off, but found 2 containers"),
        (
            {"containers": [MAIN, {"name": "main", "image": "x"}]},
            {},
            'duplicate container name "main": containers[1].name',
        ),
        (
            pair(env=[{"name": "K_SERVICE", "value": "1"}]),
            {},
            '"K_SERVICE" is a reserved environment variable: containers[1].env[0].name',
        ),
        (
            pair(livenessProbe={"tcpSocket": {"port": 1}}),
            {},
            "must not set the field(s): containers[1].livenessProbe.tcpSocket",
        ),
        (pair(livenessProbe={"tcpSocket": {"port": 1}}), PROBING, ""),
        (
            pair(readinessProbe={"httpGet": {"path": "/"}}),
            PROBING,
            "invalid value: 0: containers[1].readinessProbe.httpGet.port\nProbe port must be specified",
        ),
        (
            {"containers": [MAIN], "initContainers": [{"name": "first", "image": "x"}]},
            {"kubernetes.podspec-init-containers": "enabled"},
            "must not set the field(s): initContainers\nthis platform runs no init containers",
        ),
        (
            {
                "containers": [{**MAIN, "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
                "volumes": [{"name": "v", "projected": {"sources": [{"downwardAPI": {"items": []}}]}}],
            },
            {},
            (
                "must not set the field(s): volumes[0].projected.sources[0].downwardAPI\n"
                "this platform has no downward API"
            ),
        ),
        *(
            (
                {
                    "containers": [{**MAIN, "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
                    "volumes": [{"name": "v", "persistentVolumeClaim": claim}],
                },
                CLAIMS,
                problem,
            )
            for claim, problem in (
                ({"claimName": "models"}, ""),
                ({}, "missing field(s): volumes[0].persistentVolumeClaim.claimName"),
                (
                    {"claimName": "../../etc"},
                    (
                        "invalid value: ../../etc: volumes[0].persistentVolumeClaim.claimName\n"
                        "must be the name of a PersistentVolumeClaim"
                    ),
                ),
                (
                    {"claimName": "/etc"},
                    (
                        "invalid value: /etc: volumes[0].persistentVolumeClaim.claimName\n"
                        "must be the name of a PersistentVolumeClaim"
                    ),
                ),
            )
        ),
        (resources(limits={"memory": "1Gi"}, requests={"memory": "1024Mi"}), {}, ""),
        (
            resources(limits={"memory": "1Gi"}, requests={"memory": "2Gi"}),
            {},
            (
                "invalid value: 2Gi: containers[0].resources.requests.memory\n"
                "must be less than or equal to memory limit of 1Gi"
            ),
        ),
        (
            resources(limits={"cpu": "500m"}, requests={"cpu": 1}),
            {},
            (
                "invalid value: 1: containers[0].resources.requests.cpu\n"
                "must be less than or equal to cpu limit of 500m"
            ),
        ),
        (
            resources(limits={"memory": "1GB"}),
            {},
            (
                "invalid value: 1GB: containers[0].resources.limits.memory\nquantities must match the regular "
                "expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
            ),
        ),
        (
            resources(limits={"memory": "-1"}),
            {},
            "invalid value: -1: containers[0].resources.limits.memory\nmust be greater than or equal to 0",
        ),
        (
            resources(limits={"gpu": "1"}),
            {},
            (
                "invalid value: gpu: containers[0].resources.limits.gpu\n"
                "must be a standard resource for containers"
            ),
        ),
        (
            resources(limits={"nvidia.com/gpu": "1"}, requests={"nvidia.com/gpu": "2"}),
            {},
            (
                "invalid value: 2: containers[0].resources.requests.nvidia.com/gpu\n"
                "must be equal to nvidia.com/gpu limit of 1"
            ),
        ),
        (resources(limits={"nvidia.com/gpu": "1000m"}), {}, ""),
    ],
)
def test_containers_are_refused_in_the_clusters_words(spec, flags, text):
    assert refused(spec, **flags) == text
