"""The Deployment that wakes durable runs on a cluster (pure)."""

import json
from typing import Any, Final

from knative import env_vars
from knative.labels import AGENT_LABEL
from pilotlight.agent import Agent
from pilotlight.compile_access import access_environment, secret_mounts
from pilotlight.compile_pod import NO_IMAGE, POD_SECURITY_CONTEXT, SAFE_SECURITY_CONTEXT
from pilotlight.compile_runs import (
    WAKER_COMPONENT,
    is_woken,
    runs_environment,
    runs_mount,
    stage_config,
    waker_name,
)
from pilotlight.mesh.pods import mesh_annotations, pod_labels
from pilotlight.stage_spec import StageSpec

WAKER_LABEL: Final = "pilotlight.dev/runs-waker"


def waker_objects(agent: Agent) -> list[dict[str, Any]]:
    """The Deployment that wakes the agent's runs on a cluster; none without runs, or with SQLite.

    With SQLite the file is on the volume of the one replica, so nobody else can look into it.
    """
    return [_deployment(agent, stage) for stage in agent.spec.services if is_woken(stage)]


def _deployment(agent: Agent, stage: StageSpec) -> dict[str, Any]:
    namespace = agent.metadata.namespace
    name = waker_name(agent)
    service = agent.service_name(stage)
    address = {
        "name": stage.name,
        "kind": stage.kind.value,
        "url": f"http://{service}.{namespace}.svc.cluster.local",
    }
    env = {
        **access_environment(agent, stage),
        **runs_environment(stage),
        "K_SERVICE": service,
        env_vars.AGENT: agent.metadata.name,
        env_vars.STAGES: json.dumps([address]),
        env_vars.STAGE_CONFIG: json.dumps(stage_config(stage)),
    }
    own = runs_mount(stage)
    secrets = [*secret_mounts(agent, stage), *([] if own is None else [own])]
    labels = {
        "app.kubernetes.io/name": "pilotlight",
        "app.kubernetes.io/component": WAKER_COMPONENT,
        WAKER_LABEL: name,
    }
    container = {
        "name": "waker",
        "image": stage.image or agent.spec.image or NO_IMAGE,
        "command": ["python", "-m", "functions.orchestration.runs.waker"],
        "env": [{"name": key, "value": value} for key, value in env.items()],
        "resources": {"requests": {"cpu": "10m", "memory": "96Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": {**SAFE_SECURITY_CONTEXT, "readOnlyRootFilesystem": True},
        "volumeMounts": [secret.mount() for secret in secrets],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {**labels, AGENT_LABEL: agent.metadata.name},
        },
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {WAKER_LABEL: name}},
            # Two would do no harm: a replica that is asked twice works once.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {
                "metadata": {
                    "labels": {**labels, **pod_labels(agent)},
                    "annotations": mesh_annotations(agent),
                },
                "spec": {
                    # In a mesh it is known by its account.
                    **({} if agent.spec.mesh.type == "none" else {"serviceAccountName": name}),
                    "automountServiceAccountToken": False,
                    "securityContext": POD_SECURITY_CONTEXT,
                    "containers": [container],
                    "volumes": [secret.volume() for secret in secrets],
                },
            },
        },
    }
