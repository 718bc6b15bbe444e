"""Schema of the pod spec in a Revision, with the fields of Knative's own schema."""

from __future__ import annotations

from knative.local.apiserver.schemas.structural import (
    BOOLEAN,
    FREE,
    INT32,
    INT64,
    INT_OR_STRING,
    QUANTITY,
    STRING,
    Schema,
    atomic_list,
    described,
    map_list,
    mapping,
    struct,
)

_NAME = {**STRING, "default": ""}
_FREE_ATOMIC = {**FREE, "x-kubernetes-map-type": "atomic"}


def _reference(**fields: Schema) -> Schema:
    return {**struct({"name": _NAME, **fields}), "x-kubernetes-map-type": "atomic"}


_KEY_REFERENCE = {**_reference(key=STRING, optional=BOOLEAN), "required": ["key"]}
_ENV = struct(
    {
        "name": STRING,
        "value": described(STRING, "May refer to an earlier variable as $(NAME)."),
        "valueFrom": struct(
            {
                "configMapKeyRef": _KEY_REFERENCE,
                "secretKeyRef": _KEY_REFERENCE,
                "fieldRef": _FREE_ATOMIC,
                "resourceFieldRef": _FREE_ATOMIC,
            }
        ),
    },
    required=("name",),
)
_ENV_FROM = struct(
    {
        "configMapRef": _reference(optional=BOOLEAN),
        "secretRef": _reference(optional=BOOLEAN),
        "prefix": STRING,
    }
)
_HEADER = struct({"name": STRING, "value": STRING}, required=("name", "value"))
PROBE = struct(
    {
        "exec": struct({"command": atomic_list(STRING)}),
        "grpc": struct({"port": INT32, "service": {**STRING, "default": ""}}),
        "httpGet": struct(
            {
                "host": STRING,
                "httpHeaders": atomic_list(_HEADER),
                "path": STRING,
                "port": INT_OR_STRING,
                "scheme": STRING,
            }
        ),
        "tcpSocket": struct({"host": STRING, "port": INT_OR_STRING}),
        "initialDelaySeconds": INT32,
        "periodSeconds": INT32,
        "timeoutSeconds": INT32,
        "successThreshold": INT32,
        "failureThreshold": INT32,
    }
)
_SECURITY = struct(
    {
        "allowPrivilegeEscalation": BOOLEAN,
        "capabilities": struct({"add": atomic_list(STRING), "drop": atomic_list(STRING)}),
        "privileged": BOOLEAN,
        "readOnlyRootFilesystem": BOOLEAN,
        "runAsGroup": INT64,
        "runAsNonRoot": BOOLEAN,
        "runAsUser": INT64,
        "seccompProfile": struct({"localhostProfile": STRING, "type": STRING}, required=("type",)),
    }
)
_MOUNT = struct(
    {
        "name": STRING,
        "mountPath": STRING,
        "mountPropagation": STRING,
        "readOnly": BOOLEAN,
        "subPath": STRING,
    },
    required=("mountPath", "name"),
)
CONTAINER = struct(
    {
        "name": STRING,
        "image": described(
            STRING, "Not pulled by the local platform, which runs command and args as a process."
        ),
        "command": described(atomic_list(STRING), "The program, in place of the image's entry point."),
        "args": atomic_list(STRING),
        "workingDir": STRING,
        "ports": described(
            {
                "type": "array",
                "items": struct(
                    {"containerPort": INT32, "name": STRING, "protocol": {**STRING, "default": "TCP"}}
                ),
            },
            "At most one: the port that serves requests.",
        ),
        "env": map_list(_ENV, "name"),
        "envFrom": atomic_list(_ENV_FROM),
        "resources": struct(
            {"limits": mapping(QUANTITY), "requests": mapping(QUANTITY)},
            about="What one replica may use; nvidia.com/gpu in limits takes GPUs.",
        ),
        "readinessProbe": described(PROBE, "Requests are sent after it has succeeded."),
        "livenessProbe": described(PROBE, "The container is restarted when it fails."),
        "startupProbe": described(PROBE, "The other probes begin after it has succeeded."),
        "volumeMounts": map_list(_MOUNT, "mountPath"),
        "securityContext": _SECURITY,
        "imagePullPolicy": STRING,
        "terminationMessagePath": STRING,
        "terminationMessagePolicy": STRING,
    }
)
_ITEM = struct({"key": STRING, "mode": INT32, "path": STRING}, required=("key", "path"))
_PROJECTION = {**_reference(items=atomic_list(_ITEM), optional=BOOLEAN)}
_VOLUME = struct(
    {
        "name": STRING,
        "configMap": _reference(defaultMode=INT32, items=atomic_list(_ITEM), optional=BOOLEAN),
        "secret": struct(
            {"secretName": STRING, "defaultMode": INT32, "items": atomic_list(_ITEM), "optional": BOOLEAN}
        ),
        "emptyDir": FREE,
        "persistentVolumeClaim": FREE,
        "hostPath": FREE,
        "csi": FREE,
        "ephemeral": FREE,
        "image": FREE,
        "projected": struct(
            {
                "defaultMode": INT32,
                "sources": atomic_list(
                    struct(
                        {
                            "configMap": _PROJECTION,
                            "secret": _PROJECTION,
                            "downwardAPI": FREE,
                            "serviceAccountToken": struct(
                                {"audience": STRING, "expirationSeconds": INT64, "path": STRING},
                                required=("path",),
                            ),
                        }
                    )
                ),
            }
        ),
    },
    required=("name",),
)

REVISION_FIELDS = {
    "containers": described({"type": "array", "items": CONTAINER}, "The container that serves requests."),
    "containerConcurrency": described(INT64, "Requests a replica handles at a time; 0 for no limit."),
    "timeoutSeconds": described(INT64, "Seconds a request may take."),
    "responseStartTimeoutSeconds": INT64,
    "idleTimeoutSeconds": INT64,
    "volumes": map_list(_VOLUME, "name"),
    "serviceAccountName": STRING,
    "automountServiceAccountToken": BOOLEAN,
    "enableServiceLinks": BOOLEAN,
    "imagePullSecrets": map_list(_reference(), "name"),
    "initContainers": {"type": "array", "items": CONTAINER},
    "affinity": FREE,
    "dnsConfig": FREE,
    "dnsPolicy": STRING,
    "hostAliases": {"type": "array", "items": FREE},
    "hostIPC": BOOLEAN,
    "hostNetwork": BOOLEAN,
    "hostPID": BOOLEAN,
    "nodeSelector": {**mapping(STRING), "x-kubernetes-map-type": "atomic"},
    "priorityClassName": STRING,
    "runtimeClassName": STRING,
    "schedulerName": STRING,
    "securityContext": FREE,
    "shareProcessNamespace": BOOLEAN,
    "tolerations": {"type": "array", "items": FREE},
    "topologySpreadConstraints": {"type": "array", "items": FREE},
}
REVISION_SPEC = struct(
    REVISION_FIELDS, required=("containers",), about="One replica's pod and how requests reach it."
)
