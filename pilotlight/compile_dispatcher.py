"""The pods that post a queue's messages on a cluster: account, rights, Deployment, PodMonitor (pure)."""

import math
from typing import Any, Final

from pilotlight.agent import Agent
from pilotlight.agent_triggers import AgentTrigger
from pilotlight.compile_keda import keda_objects, replicas_at_most
from pilotlight.compile_pod import POD_SECURITY_CONTEXT, SAFE_SECURITY_CONTEXT
from pilotlight.compile_triggers import trigger_object
from pilotlight.mesh.pods import mesh_annotations, pod_labels
from triggers.spec.trigger import TriggerSpec

TRIGGER_LABEL: Final = "pilotlight.dev/trigger"
SECRETS_FOLDER: Final = "/etc/pilotlight/trigger-secrets"
NO_IMAGE: Final = "pilotlight.invalid/set-spec.dispatcher.image"
_PORT: Final = 9095
_MARGIN_S: Final = 30


def dispatcher_objects(agent: Agent) -> list[dict[str, Any]]:
    """What runs the agent's Triggers on a cluster with KEDA: for each one its Deployment and its scaling."""
    triggers = [trigger for trigger in agent.spec.triggers if trigger.delivery == "dispatcher"]
    if not triggers:
        return []
    objects = _account(agent)
    for trigger in triggers:
        name = trigger_object(agent, trigger)["metadata"]["name"]
        objects += [_deployment(agent, trigger, name), *keda_objects(agent, trigger, name, drain_s(trigger))]
        if agent.spec.dispatcher.pod_monitor:
            objects.append(_pod_monitor(agent, name))
    return objects


def drain_s(trigger: AgentTrigger) -> int:
    """How long a pod that is taken away finishes its requests: as long as one of them may take."""
    return math.ceil(trigger.timeout)


def _account(agent: Agent) -> list[dict[str, Any]]:
    """The account, unless the file names one, and its rights: to read Triggers, to write their status."""
    namespace = agent.metadata.namespace
    name = f"{agent.metadata.name}-triggers"
    given = agent.spec.dispatcher.service_account_name
    meta = {"name": name, "namespace": namespace}
    rules = [
        {"apiGroups": ["pilotlight.dev"], "resources": ["triggers"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": ["pilotlight.dev"], "resources": ["triggers/status"], "verbs": ["get", "patch"]},
    ]
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta}
    return [
        *([] if given else [account]),
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": meta, "rules": rules},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": meta,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": given or name, "namespace": namespace}],
        },
    ]


def secrets_of(agent: Agent, trigger: AgentTrigger) -> tuple[str, ...]:
    """The Secrets that the trigger's queues and its target name."""
    return TriggerSpec.parse(trigger_object(agent, trigger)["spec"]).secrets


def _deployment(agent: Agent, trigger: AgentTrigger, name: str) -> dict[str, Any]:
    settings = agent.spec.dispatcher
    namespace = agent.metadata.namespace
    labels = {
        "app.kubernetes.io/name": "pilotlight",
        "app.kubernetes.io/component": "trigger-dispatcher",
        TRIGGER_LABEL: name,
    }
    env = [{"name": key, "value": value} for key, value in settings.env.items()]
    volumes: list[dict[str, Any]] = []
    mounts: list[dict[str, Any]] = []
    for number, secret in enumerate(secrets_of(agent, trigger)):
        volumes.append({"name": f"secret-{number}", "secret": {"secretName": secret}})
        mounts.append(
            {"name": f"secret-{number}", "mountPath": f"{SECRETS_FOLDER}/{secret}", "readOnly": True}
        )
    env_from = list(settings.env_from)
    if settings.aws_secret is not None:
        env_from.append({"secretRef": {"name": settings.aws_secret}})
    container = {
        "name": "dispatcher",
        "image": settings.image or NO_IMAGE,
        "command": ["python", "-m", "triggers"],
        "args": [f"--trigger={name}", f"--namespace={namespace}", f"--drain-seconds={drain_s(trigger)}"],
        "env": env,
        "envFrom": env_from,
        "ports": [{"name": "http", "containerPort": _PORT}],
        "livenessProbe": _probe("/healthz/live", 20, 3),
        # Ready is who reaches its queue: a rollout with wrong credentials keeps the pods that work.
        "readinessProbe": _probe("/healthz/ready", 5, 2),
        "resources": {"requests": settings.requests, "limits": settings.limits},
        "securityContext": {**SAFE_SECURITY_CONTEXT, "readOnlyRootFilesystem": True},
        "volumeMounts": mounts,
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            # No replicas: KEDA sets them, from zero.
            "selector": {"matchLabels": {TRIGGER_LABEL: name}},
            # One more at first and none less: a message in hand is never without a pod.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
            if replicas_at_most(agent, trigger) > 1
            else {"type": "Recreate"},
            "template": {
                "metadata": {
                    "labels": {**labels, **pod_labels(agent)},
                    "annotations": {
                        **mesh_annotations(agent),
                        "prometheus.io/scrape": "true",
                        "prometheus.io/port": str(_PORT),
                        "prometheus.io/path": "/metrics",
                    },
                },
                "spec": {
                    "serviceAccountName": settings.service_account_name or f"{agent.metadata.name}-triggers",
                    # SIGTERM ends the taking of messages; what is under way is finished or returned.
                    "terminationGracePeriodSeconds": drain_s(trigger) + _MARGIN_S,
                    "securityContext": POD_SECURITY_CONTEXT,
                    "containers": [{key: value for key, value in container.items() if value != []}],
                    **({"volumes": volumes} if volumes else {}),
                },
            },
        },
    }


def _probe(path: str, period_s: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": period_s,
        "timeoutSeconds": 3,
        "failureThreshold": failures,
    }


def _pod_monitor(agent: Agent, name: str) -> dict[str, Any]:
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": {"name": name, "namespace": agent.metadata.namespace},
        "spec": {
            "selector": {"matchLabels": {TRIGGER_LABEL: name}},
            "podMetricsEndpoints": [{"port": "http", "path": "/metrics"}],
        },
    }
