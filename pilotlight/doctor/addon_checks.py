"""Checks of what else a cluster has: warm-pool controller, Prometheus, KEDA, Eventing, mesh (pure)."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from pilotlight.doctor.cluster_facts import ClusterFacts
from pilotlight.doctor.findings import Finding, Level, Unknown, ok, unknown


@dataclass(frozen=True, slots=True)
class _Addon:
    """An addon, the API groups by which it is seen, and what follows from it."""

    name: str
    groups: tuple[str, ...]
    present: str
    absent: str
    delivery: str = ""
    """The delivery of triggers that needs it."""
    install: str = ""


_ADDONS = (
    _Addon(
        "Prometheus operator",
        ("monitoring.coreos.com",),
        "kubectl apply -k knative/manifests/controller/monitoring makes it scrape the controller",
        "give the controller --prometheus URL yourself; without demand, keepAlive and forecast hold nothing",
    ),
    _Addon(
        "KEDA",
        ("keda.sh",),
        "the dispatchers of triggers follow their queues",
        "triggers with delivery dispatcher need it",
        "dispatcher",
        "https://keda.sh/docs/latest/deploy/",
    ),
    _Addon(
        "Knative Eventing",
        ("eventing.knative.dev",),
        "triggers may have delivery eventing",
        "triggers with delivery eventing need it",
        "eventing",
        "https://knative.dev/docs/install/",
    ),
    _Addon(
        "service mesh",
        ("networking.istio.io", "linkerd.io"),
        "probes and calls between stages go through its sidecars, which lengthens cold starts",
        "calls between stages are plain HTTP inside the cluster",
    ),
    _Addon(
        "cert-manager",
        ("cert-manager.io",),
        "it can issue certificates for the webhook of warm pools and for function URLs",
        "the webhook of warm pools and HTTPS need certificates of your own",
    ),
)
WARM_POOL_GROUP = "pilotlight.dev"
CONTROLLER = "warmpool-controller"
CONTROLLER_NAMESPACE = "pilotlight-system"


def addons(facts: ClusterFacts, *, pools: bool, deliveries: Collection[str]) -> Iterator[Finding]:
    """What is there and what follows; an error is what an agent cannot do without.

    Args:
        facts: of the cluster.
        pools: whether an agent has warm pools.
        deliveries: those of its triggers.
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
    for addon in _ADDONS:
        if facts.groups & set(addon.groups):
            yield ok("addons", f"{addon.name}: there; {addon.present}")
        elif addon.delivery in deliveries:
            yield Finding(
                Level.ERROR,
                "addons",
                f"{addon.name}: not there; {addon.absent}, and the agent has such",
                addon.install,
            )
        else:
            yield ok("addons", f"{addon.name}: not there; {addon.absent}")


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
