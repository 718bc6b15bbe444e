"""Checks of what else a cluster has: warm-pool controller, Prometheus, KEDA, Eventing, mesh (pure)."""

from collections.abc import Iterator

from pilotlight.doctor.cluster_facts import ClusterFacts
from pilotlight.doctor.findings import Finding, Level, Unknown, ok, unknown

_ADDONS = (
    (
        ("monitoring.coreos.com",),
        "Prometheus operator",
        "kubectl apply -k knative/manifests/controller/monitoring makes it scrape the controller",
        "give the controller --prometheus URL yourself; without demand, keepAlive and forecast hold nothing",
    ),
    (
        ("keda.sh",),
        "KEDA",
        "its ScaledObjects cannot target Knative Services, which scale themselves",
        "not needed: queues count as demand through the backlog of a warm pool",
    ),
    (
        ("eventing.knative.dev",),
        "Knative Eventing",
        "Brokers and Triggers can call functions",
        "functions are called over HTTP only",
    ),
    (
        ("networking.istio.io", "linkerd.io"),
        "service mesh",
        "probes and calls between stages go through its sidecars, which lengthens cold starts",
        "calls between stages are plain HTTP inside the cluster",
    ),
    (
        ("cert-manager.io",),
        "cert-manager",
        "it can issue certificates for the webhook of warm pools and for function URLs",
        "the webhook of warm pools and HTTPS need certificates of your own",
    ),
)
WARM_POOL_GROUP = "pilotlight.dev"
CONTROLLER = "warmpool-controller"
CONTROLLER_NAMESPACE = "pilotlight-system"


def addons(facts: ClusterFacts, *, pools: bool) -> Iterator[Finding]:
    """What is there and what follows; only a missing WarmPool kind stops a deploy.

    Args:
        facts: of the cluster.
        pools: whether an agent has warm pools.
    """
    if isinstance(facts.groups, Unknown):
        yield unknown("addons", "API groups", facts.groups)
        return
    if WARM_POOL_GROUP in facts.groups:
        yield ok("warm pools", "the kind WarmPool is there")
    elif pools:
        yield Finding(
            Level.ERROR,
            "warm pools",
            "the kind WarmPool is not there, and the agent has warm pools",
            "kubectl apply -k knative/manifests/controller",
        )
    if facts.local:
        return
    if pools:
        yield from _controller(facts)
    for groups, name, present, absent in _ADDONS:
        there = bool(facts.groups & set(groups))
        yield ok("addons", f"{name}: {'there; ' + present if there else 'not there; ' + absent}")


def _controller(facts: ClusterFacts) -> Iterator[Finding]:
    """Whether somebody moves floors; it may run elsewhere, so its absence stops nothing."""
    where = f"Deployment {CONTROLLER_NAMESPACE}/{CONTROLLER}"
    if isinstance(facts.controllers, Unknown):
        yield unknown("warm pools", where, facts.controllers)
    elif facts.controllers:
        yield ok("warm pools", f"the controller runs ({where})")
    else:
        state = "is not there" if facts.controllers is None else "has no ready replica"
        yield Finding(
            Level.WARNING,
            "warm pools",
            f"{where} {state}: nothing is kept warm, unless a controller runs elsewhere",
            "kubectl apply -k knative/manifests/controller",
        )
