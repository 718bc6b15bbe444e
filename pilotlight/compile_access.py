"""What an agent says about who may call, as environment, volumes and a NetworkPolicy (pure)."""

import json
from typing import Any

from knative import env_vars
from knative.labels import AGENT_LABEL, ALLOWED_ORIGINS_ANNOTATION
from pilotlight.agent import Agent
from pilotlight.secret_mount import SecretMount
from pilotlight.stage_spec import Kind, StageSpec

STAGE_TOKEN_VOLUME = "pilotlight-stage-token"  # noqa: S105  # a name
KEYS_VOLUME = "pilotlight-keys"
_KEYS_DIR = "/var/run/pilotlight/keys"
_STAGE_TOKEN_DIR = "/var/run/pilotlight/stage-token"  # noqa: S105  # a folder

_PROXY_PORTS = (8012, 8013, 8112)
"""The queue-proxy's: HTTP/1.1, HTTP/2, TLS."""
_METRICS_PORTS = (9090, 9091)
"""The queue-proxy's: for the autoscaler, and its own metrics."""
_CONTAINER_PORT = 8080
_CALLERS = ("trigger-dispatcher", "runs-waker")
"""Components that call an agent's stages beside its own."""
_MESH_PORTS = {"istio-ambient": (15008,), "linkerd": (4143,)}
"""At which a mesh's proxy takes connections of other proxies, in place of the port that was asked for."""


def stage_token_secret(agent: str) -> str:
    """The Secret with the token of an agent's stages."""
    return f"{agent}-stage-token"


def secret_mounts(agent: Agent, stage: StageSpec) -> list[SecretMount]:
    """The Secrets by which a stage knows its callers, and shows who it is."""
    auth = agent.spec.auth
    if auth is None or stage.is_own_image:
        return []
    mounts = []
    if auth.type == "keys":
        mounts.append(SecretMount(KEYS_VOLUME, auth.secret, _KEYS_DIR))
    if _has_stage_token(agent):
        secret = stage_token_secret(agent.metadata.name)
        mounts.append(SecretMount(STAGE_TOKEN_VOLUME, secret, _STAGE_TOKEN_DIR))
    return mounts


def access_environment(agent: Agent, stage: StageSpec) -> dict[str, str]:
    """The variables that say whose requests a stage answers."""
    env: dict[str, str] = {}
    spec = agent.spec
    if spec.allowed_origins:
        env[env_vars.ALLOWED_ORIGINS] = ",".join(spec.allowed_origins)
    if spec.progress_seconds is not None:
        env[env_vars.PROGRESS_SECONDS] = f"{spec.progress_seconds:g}"
    if spec.auth is None:
        return env
    inner = _has_stage_token(agent) and not agent.is_public(stage)
    env[env_vars.AUTH] = "stages" if spec.auth.type == "none" and inner else spec.auth.type
    if spec.auth.type == "keys":
        env[env_vars.KEYS_DIR] = _KEYS_DIR
    if spec.auth.jwt is not None:
        env[env_vars.JWT] = json.dumps(spec.auth.jwt.model_dump(by_alias=True, exclude_defaults=True))
    if _has_stage_token(agent):
        env[env_vars.STAGE_TOKEN_DIR] = _STAGE_TOKEN_DIR
    return env


def access_annotations(agent: Agent, stage: StageSpec) -> dict[str, str]:
    """The annotation by which an activator answers preflights for a stage."""
    if stage.is_own_image or not agent.spec.allowed_origins:
        return {}
    return {ALLOWED_ORIGINS_ANNOTATION: ",".join(agent.spec.allowed_origins)}


def network_policy(agent: Agent) -> dict[str, Any] | None:
    """The agent's NetworkPolicy; None where the file wants none, or says nothing about who may call.

    Requests reach a pod through Knative's activator or its ingress, those of the agent's own stages too, so
    these are the ones that are let in; who may observe reaches the container itself.
    """
    settings = agent.spec.network_policy
    if not settings.enabled or agent.spec.auth is None:
        return None
    proxies = (*_PROXY_PORTS, *_METRICS_PORTS, *_MESH_PORTS.get(agent.spec.mesh.type, ()))
    serving = _rule(settings.ingress_namespaces, proxies)
    observers = _rule(settings.observer_namespaces, (_CONTAINER_PORT, *proxies))
    within = [_within(agent)] if agent.spec.mesh.type == "istio" else []
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {
            "name": f"{agent.metadata.name}-ingress",
            "namespace": agent.metadata.namespace,
            "labels": {AGENT_LABEL: agent.metadata.name},
        },
        "spec": {
            "podSelector": {"matchLabels": {AGENT_LABEL: agent.metadata.name}},
            "policyTypes": ["Ingress"],
            "ingress": [serving, *([observers] if settings.observer_namespaces else []), *within],
        },
    }


def _rule(namespaces: list[str], ports: tuple[int, ...]) -> dict[str, Any]:
    names = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": list(namespaces)}
    return {
        "from": [{"namespaceSelector": {"matchExpressions": [names]}}],
        "ports": [{"protocol": "TCP", "port": port} for port in ports],
    }


def _within(agent: Agent) -> dict[str, Any]:
    """Sidecars send requests straight to pods, past Knative's gateway: the agent's own, and its callers'."""
    callers = sorted({caller.partition("/")[0] for caller in agent.spec.mesh.callers})
    own = {AGENT_LABEL: agent.metadata.name}
    peers: list[dict[str, Any]] = [
        {"podSelector": {"matchLabels": labels}}
        for labels in (own, *({"app.kubernetes.io/component": name} for name in _CALLERS))
    ]
    if callers:
        names = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": callers}
        peers.append({"namespaceSelector": {"matchExpressions": [names]}})
    return {"from": peers, "ports": [{"protocol": "TCP", "port": port} for port in _PROXY_PORTS]}


def _has_stage_token(agent: Agent) -> bool:
    """Whether there is a stage that calls another."""
    own = [stage for stage in agent.spec.services if not stage.is_own_image]
    return any(stage.kind is Kind.ORCHESTRATE for stage in own)
