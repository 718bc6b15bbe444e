"""Istio's objects for an agent: strict mutual TLS, and authorisation by identity (pure).

With sidecars a stage's calls go straight to the pods of the next one, by the VirtualService of gateway
`mesh` that Knative's net-istio makes, and while these are at zero to the activator. So a pod sees either its
caller's identity or the activator's, and what the activator may pass on is decided at the activator.

In ambient mode there is no sidecar, and requests between stages pass Knative's local gateway: pods see the
gateway's identity, and only that is checked here; the stage token tells the agent's stages from others.
"""

from typing import Any

from knative.labels import AGENT_LABEL, SERVICE_LABEL
from pilotlight.agent import Agent
from pilotlight.mesh.identities import SERVING_NAMESPACE, Callers, account_of, callers_of
from pilotlight.mesh.pods import CONTAINER_PORT
from pilotlight.stage_spec import StageSpec

_REQUEST_PORTS = ("8012", "8013", "8112")
"""Queue-proxy's: HTTP/1.1, HTTP/2, TLS."""
_METRICS_PORTS = ("9090", "9091")
"""Queue-proxy's: for the autoscaler, and its own."""
_OBSERVED_PATHS = ("/metrics", "/admin/warmth", "/healthz/*")

Object = dict[str, Any]


def istio_objects(agent: Agent) -> list[Object]:
    """Everything but the accounts."""
    sidecars = agent.spec.mesh.type == "istio"
    objects = [_peer_authentication(agent, sidecars=sidecars)]
    objects += [_authorization(agent, stage, sidecars=sidecars) for stage in agent.spec.services]
    if sidecars:
        if (guard := _activator_guard(agent)) is not None:
            objects.append(guard)
        objects.append(_outlier_detection(agent))
    return objects


def _meta(agent: Agent, name: str, namespace: str | None = None) -> Object:
    return {
        "name": name,
        "namespace": namespace or agent.metadata.namespace,
        "labels": {AGENT_LABEL: agent.metadata.name},
    }


def _peer_authentication(agent: Agent, *, sidecars: bool) -> Object:
    spec: Object = {
        "selector": {"matchLabels": {AGENT_LABEL: agent.metadata.name}},
        "mtls": {"mode": "STRICT"},
    }
    if sidecars:
        # The warm-pool controller and Prometheus ask pods by their addresses, which sidecars do not encrypt.
        # The AuthorizationPolicies leave them metrics and warmth, the NetworkPolicy their namespaces.
        spec["portLevelMtls"] = {str(CONTAINER_PORT): {"mode": "PERMISSIVE"}}
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "PeerAuthentication",
        "metadata": _meta(agent, agent.metadata.name),
        "spec": spec,
    }


def _authorization(agent: Agent, stage: StageSpec, *, sidecars: bool) -> Object:
    """Who reaches the pods of a stage: its callers, Knative's own, and who observes."""
    callers = callers_of(agent, stage)
    settings = agent.spec.network_policy
    requests = _sources(callers, SERVING_NAMESPACE)
    if not sidecars:
        requests = [{"source": {"namespaces": sorted({SERVING_NAMESPACE, *settings.ingress_namespaces})}}]
    observers = sorted(settings.observer_namespaces)
    rules = [
        {"from": requests, "to": [{"operation": {"ports": list(_REQUEST_PORTS)}}]},
        {
            "from": [{"source": {"namespaces": sorted({SERVING_NAMESPACE, *observers})}}],
            "to": [{"operation": {"ports": list(_METRICS_PORTS)}}],
        },
    ]
    if sidecars:
        observed = {
            "ports": [str(CONTAINER_PORT)],
            "paths": [*_OBSERVED_PATHS, *_quality_paths(agent, stage)],
        }
        rules.append({"to": [{"operation": observed}]})
    elif observers:
        ports = [str(CONTAINER_PORT), *_REQUEST_PORTS]
        rules.append(
            {"from": [{"source": {"namespaces": observers}}], "to": [{"operation": {"ports": ports}}]}
        )
    service = agent.service_name(stage)
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": _meta(agent, service),
        "spec": {"selector": {"matchLabels": {SERVICE_LABEL: service}}, "action": "ALLOW", "rules": rules},
    }


def _quality_paths(agent: Agent, stage: StageSpec) -> list[str]:
    """Where the controller asks both Revisions the prompts of a rollout; the stage still asks for its key."""
    pool = agent.pool(stage)
    quality = None if pool is None or pool.rollout is None else pool.rollout.quality
    return [] if quality is None else [quality.path]


def _sources(callers: Callers, *namespaces: str) -> list[Object]:
    sources: list[Object] = [{"source": {"namespaces": sorted({*namespaces, *callers.namespaces})}}]
    if callers.accounts:
        sources.insert(0, {"source": {"principals": [_principal(*account) for account in callers.accounts]}})
    return sources


def _principal(namespace: str, account: str) -> str:
    """An identity in any trust domain."""
    return f"*/ns/{namespace}/sa/{account}"


def _activator_guard(agent: Agent) -> Object | None:
    """What the activator passes on to inner stages: their callers' requests alone.

    A stage at zero is reached through the activator, whose identity its pods accept. So the check is made
    there too: by the host, and by the headers with which the activator is told a Revision.
    """
    inner = [stage for stage in agent.spec.services if not agent.is_public(stage)]
    if not inner:
        return None
    namespace = agent.metadata.namespace
    rules = []
    for stage in inner:
        callers = callers_of(agent, stage)
        others: Object = {"notNamespaces": [SERVING_NAMESPACE]}  # its own probes
        if callers.accounts:
            others["notPrincipals"] = [_principal(*account) for account in callers.accounts]
        service = agent.service_name(stage)
        names = [f"{service}.{namespace}{suffix}" for suffix in ("", ".svc", ".svc.cluster.local")]
        hosts = [host for name in names for host in (name, f"{name}:*")]
        rules += [
            {"from": [{"source": others}], "to": [{"operation": {"hosts": hosts}}]},
            {
                "from": [{"source": others}],
                "when": [
                    {"key": "request.headers[Knative-Serving-Namespace]", "values": [namespace]},
                    # Revisions are numbered with five digits.
                    {"key": "request.headers[Knative-Serving-Revision]", "values": [f"{service}-0*"]},
                ],
            },
        ]
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": _meta(agent, f"{namespace}-{agent.metadata.name}", SERVING_NAMESPACE),
        "spec": {"selector": {"matchLabels": {"app": "activator"}}, "action": "DENY", "rules": rules},
    }


def _outlier_detection(agent: Agent) -> Object:
    """Pods that cannot be reached are left out for a while, by the calls of this agent's stages.

    Answers of 5xx do not count: a replica that loads or drains says 503 with `Retry-After`, and the stages
    retry by their own budget. Retries of the mesh are off in Knative's VirtualServices.
    """
    detection = {
        "splitExternalLocalOriginErrors": True,
        "consecutiveLocalOriginFailures": 3,
        "consecutive5xxErrors": 0,
        "consecutiveGatewayErrors": 0,
        "interval": "5s",
        "baseEjectionTime": "15s",
        "maxEjectionPercent": 50,
        # The last pods of a Service are never left out: it may have only one.
        "minHealthPercent": 50,
    }
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": _meta(agent, agent.metadata.name),
        "spec": {
            "host": f"*.{agent.metadata.namespace}.svc.cluster.local",
            "exportTo": ["."],
            "workloadSelector": {"matchLabels": {AGENT_LABEL: agent.metadata.name}},
            "trafficPolicy": {"outlierDetection": detection},
        },
    }


def identity(agent: Agent, stage: StageSpec) -> str:
    """A stage's identity as Istio writes it, in any trust domain."""
    return _principal(agent.metadata.namespace, account_of(agent, stage))
