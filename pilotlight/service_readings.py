"""What Services do at an instant, and rates between two instants, for `top` and the dashboard (pure)."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from knative.autoscaling.annotations import MIN_SCALE
from knative.labels import PORT_ANNOTATION, SERVICE_LABEL, TLS_ANNOTATION
from pilotlight.metric_samples import Key, Sample, by_service, total
from pilotlight.readiness import pod_is_ready, ready_condition

Object = Mapping[str, Any]


@dataclass(frozen=True)
class ServiceReading:
    """One Service at one instant; counters as they stand, None where nothing reports them."""

    ready: str
    desired: int | None = None
    replicas_ready: int = 0
    replicas_pending: int = 0
    floor: int = 0
    warmth: tuple[str, ...] = ()
    demand: float | None = None
    """Replicas that the requests of the stable window fill."""
    requests: float | None = None
    first_tokens: float | None = None
    first_token_seconds: float | None = None
    tokens: float | None = None
    """Generated."""
    gpu_seconds: float | None = None


@dataclass(frozen=True)
class Reading:
    """All Services at one instant (monotonic seconds)."""

    at: float
    services: Mapping[str, ServiceReading] = field(default_factory=dict)


@dataclass(frozen=True)
class Rates:
    """What happened between two readings; None where it was not measured or nothing came."""

    requests_per_s: float | None = None
    ttft_s: float | None = None
    tokens_per_s: float | None = None


def rates(before: ServiceReading | None, now: ServiceReading, seconds: float) -> Rates:
    """The rates of one Service.

    Args:
        before: its earlier reading; None: it had none.
        now: its later one.
        seconds: between the two.
    """
    earlier = before or ServiceReading(ready="")
    requests = _difference(earlier.requests, now.requests)
    first = _difference(earlier.first_tokens, now.first_tokens)
    waited = _difference(earlier.first_token_seconds, now.first_token_seconds)
    tokens = _difference(earlier.tokens, now.tokens)
    return Rates(
        requests / seconds if requests is not None and seconds else None,
        waited / first if first and waited is not None else None,
        tokens / seconds if tokens is not None and seconds else None,
    )


def _difference(before: float | None, now: float | None) -> float | None:
    # A counter that went back was started again: what it holds came since.
    if before is None or now is None:
        return None
    return now - before if now >= before else now


def metrics_url(pod: Object) -> str | None:
    """Where a replica of this machine's platform serves its own metrics."""
    port = pod["metadata"].get("annotations", {}).get(PORT_ANNOTATION)
    ip = pod.get("status", {}).get("podIP")
    scheme = "https" if TLS_ANNOTATION in pod["metadata"].get("annotations", {}) else "http"
    return f"{scheme}://{ip}:{port}/metrics" if port and ip else None


def pods_by_service(pods: Iterable[Object]) -> dict[Key, list[Object]]:
    """Replicas by the Service that they belong to."""
    found: defaultdict[Key, list[Object]] = defaultdict(list)
    for pod in pods:
        meta = pod["metadata"]
        name = (meta.get("labels") or {}).get(SERVICE_LABEL)
        if name:
            found[meta["namespace"], name].append(pod)
    return found


def read_services(
    services: Iterable[Object],
    revisions: Iterable[Object],
    pods: Iterable[Object],
    platform: Iterable[Sample],
    replicas: Mapping[Key, Iterable[Sample]],
) -> dict[str, ServiceReading]:
    """Every Service's reading, by `NAMESPACE/NAME`.

    Args:
        services: Service objects.
        revisions: Revision objects.
        pods: Pod objects.
        platform: samples of the platform's metrics; none where there is no such page.
        replicas: samples of the replicas' own metrics, by namespace and name of the pod.
    """
    samples, own = by_service(platform), pods_by_service(pods)
    annotations = {
        (item["metadata"]["namespace"], item["metadata"]["name"]): item["metadata"].get("annotations") or {}
        for item in revisions
    }
    found = {}
    for service in services:
        key = service["metadata"]["namespace"], service["metadata"]["name"]
        latest = service.get("status", {}).get("latestReadyRevisionName")
        floor = annotations.get((key[0], latest), {}).get(MIN_SCALE, "0")
        mine = own.get(key, [])
        found["/".join(key)] = _read(
            service,
            int(floor) if floor.isdecimal() else 0,
            mine,
            samples.get(key, []),
            [sample for pod in mine for sample in replicas.get(_key(pod), ())],
        )
    return found


def _key(pod: Object) -> Key:
    return pod["metadata"]["namespace"], pod["metadata"]["name"]


def _read(
    service: Object, floor: int, pods: list[Object], samples: list[Sample], own: list[Sample]
) -> ServiceReading:
    ready = sum(pod_is_ready(pod) for pod in pods)
    desired = total(samples, "autoscaler_desired_pods")
    in_flight = total(samples, "autoscaler_stable_request_concurrency")
    target = max(
        (value for name, _, value in samples if name == "autoscaler_target_concurrency_per_pod"), default=0.0
    )
    states = {
        labels.get("pilotlight_replica_state", "")  # a state set: its label has the metric's own name
        for name, labels, value in own
        if name == "pilotlight_replica_state" and value == 1
    } - {""}
    tokens = [
        value
        for name, labels, value in own
        if name == "pilotlight_tokens_total" and labels.get("direction") == "completion"
    ]
    return ServiceReading(
        ready=ready_condition(service).shown,
        desired=None if desired is None else int(desired),
        replicas_ready=ready,
        replicas_pending=len(pods) - ready,
        floor=floor,
        warmth=tuple(sorted(states)),
        demand=in_flight / target if in_flight is not None and target else None,
        requests=total(samples, "activator_request_count"),
        first_tokens=total(own, "pilotlight_time_to_first_token_seconds_count"),
        first_token_seconds=total(own, "pilotlight_time_to_first_token_seconds_sum"),
        tokens=sum(tokens) if tokens else None,
        gpu_seconds=total(samples, "pilotlight_gpu_seconds_total"),
    )
