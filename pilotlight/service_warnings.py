"""What will hurt a Service's users, or its bill, before it does: long starts, and false traffic (pure)."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from knative.autoscaling.annotations import SCALE_DOWN_DELAY, WINDOW
from knative.literals import parse_duration
from pilotlight.metric_samples import Sample

DEFAULT_WINDOW_S = 60.0
DEFAULT_GRACE_S = 30.0
"""Knative's defaults of `stable-window` and `scale-to-zero-grace-period`."""
DEFAULT_TIMEOUT_S = 300.0
"""Knative's default of `timeoutSeconds`."""
RECENT = "pilotlight_recent_requests"
_PROBED = re.compile(r"/(?:health|healthz|livez|readyz|ping|version|metrics|status)?(?:/(?:live|ready))?/?")
_STOPPED = {"RolledBack", "Overridden"}
_PROBERS = re.compile(
    r"kube-probe|prometheus|googlehc|elb-healthchecker|amazon-route53|uptime|blackbox|datadog|pingdom",
    re.IGNORECASE,
)


def service_warnings(
    service: Mapping[str, Any], pool: Mapping[str, Any] | None, samples: Iterable[Sample]
) -> list[str]:
    """One line for each thing that will hurt.

    Args:
        service: the Service.
        pool: the status of its WarmPool; None without one.
        samples: of the platform's metrics; none where there are none.
    """
    meta = service["metadata"]
    own = [
        (name, labels, value)
        for name, labels, value in samples
        if (labels.get("namespace"), labels.get("service")) == (meta["namespace"], meta["name"])
    ]
    start_s = _start_seconds(pool, own)
    found = (
        [] if start_s is None else [*_against_window(service, start_s), *_against_timeouts(service, start_s)]
    )
    found += _given_up(own, start_s)
    found += _kept_awake(own)
    found += _stopped_rollout(pool)
    return found


def rollout_in_short(pool: Mapping[str, Any] | None) -> str:
    """A rollout that is under way, in a few words; empty without one."""
    rollout = (pool or {}).get("rollout") or {}
    phase = rollout.get("phase", "Steady")
    if phase in _STOPPED or phase == "Steady" or not rollout.get("canary"):
        return ""
    return f"rollout {phase}: {rollout['canary']} {rollout.get('percent', 0)} %"


def _stopped_rollout(pool: Mapping[str, Any] | None) -> list[str]:
    rollout = (pool or {}).get("rollout") or {}
    return [str(rollout.get("detail", ""))] if rollout.get("phase") in _STOPPED else []


def kept_by(namespace: str, service: str, samples: Iterable[Sample]) -> str:
    """The requests that have kept a Service's replicas for the last five minutes; empty without any.

    Scrapes, probes and health checks keep a Service from scaling to zero as any request does.

    Args:
        namespace: the Service's.
        service: its name.
        samples: of the platform's metrics.
    """
    calls: dict[tuple[str, str, str], float] = {}
    for name, labels, value in samples:
        if name == RECENT and (labels["namespace"], labels["service"]) == (namespace, service):
            key = labels["method"], labels["path"], labels["user_agent"]
            calls[key] = calls.get(key, 0.0) + value
    if not calls:
        return ""
    (method, path, agent), number = max(calls.items(), key=lambda item: item[1])
    what = f"{method} {path}" if path else "many kinds"
    by = f" by {agent}" if agent else ""
    others = sum(calls.values()) - number
    more = f", and {others:.0f} others" if others else ""
    return f"requests: {what}{by}, {number:.0f} in 5 minutes{more}"


def _start_seconds(pool: Mapping[str, Any] | None, samples: Iterable[Sample]) -> float | None:
    """The longest start that was measured: the pool's 95th percentile, or the last one at the gateway."""
    known = [value for name, _, value in samples if name == "pilotlight_start_seconds"]
    measured = parse_duration(str(((pool or {}).get("coldStart") or {}).get("p95", "")))
    return max([*known, *([float(measured)] if measured is not None else [])], default=None)


def _against_window(service: Mapping[str, Any], start_s: float) -> list[str]:
    """Whether the Service may scale to zero before a start is over.

    Knative waits for a replica's readiness before it does. One that is ready at its port (`readiness: port`)
    is ready long before it is hot, and one that nobody waits for any more goes as soon as it has come.
    """
    annotations = service["spec"]["template"]["metadata"].get("annotations") or {}
    window = _seconds(annotations.get(WINDOW), DEFAULT_WINDOW_S)
    delay = _seconds(annotations.get(SCALE_DOWN_DELAY), 0.0)
    stays = max(window, delay) + DEFAULT_GRACE_S
    if stays >= start_s:
        return []
    when = "while it still loads" if _is_ready_at_its_port(service) else "as soon as it has started"
    text = (
        f"a start takes {start_s:.0f} s, but {stays:.0f} s without requests scale it to zero, {when} if its "
        f"client gives up: set scaling.window or scaling.scaleDownDelay to {start_s:.0f}s or more"
    )
    return [text]


def _against_timeouts(service: Mapping[str, Any], start_s: float) -> list[str]:
    spec = service["spec"]["template"]["spec"]
    limits = {
        "timeoutSeconds": float(spec.get("timeoutSeconds") or DEFAULT_TIMEOUT_S),
        "responseStartTimeoutSeconds": float(spec.get("responseStartTimeoutSeconds") or 0),
    }
    return [
        f"a start takes {start_s:.0f} s, longer than {field} ({limit:.0f} s): "
        "the request that causes it ends in 504"
        for field, limit in limits.items()
        if 0 < limit < start_s
    ]


def _given_up(samples: Iterable[Sample], start_s: float | None) -> list[str]:
    number = sum(value for name, _, value in samples if name == "pilotlight_abandoned_requests_total")
    if not number:
        return []
    took = "" if start_s is None else f", which takes {start_s:.0f} s"
    return [f"{number:.0f} clients gave up while they waited for a start{took}; the starts were finished"]


def _kept_awake(samples: Iterable[Sample]) -> list[str]:
    """Whether all that has called for five minutes are probes and scrapes, and who they are."""
    calls = [(labels, value) for name, labels, value in samples if name == RECENT and value]
    if not calls or not all(_is_probe(labels) for labels, _ in calls):
        return []
    most, number = max(calls, key=lambda call: call[1])
    by = f" by {most['user_agent']}" if most.get("user_agent") else ""
    text = (
        f"nothing but probes and scrapes keeps it from zero: {most['method']} {most['path']}{by}, "
        f"{number:.0f} in 5 minutes; ask the platform's own metrics, or the gateway's /healthz, instead"
    )
    return [text]


def _is_probe(labels: Mapping[str, str]) -> bool:
    if labels.get("method") not in {"GET", "HEAD"}:
        return False
    path = labels.get("path", "")
    return _PROBERS.search(labels.get("user_agent", "")) is not None or (
        path not in {"", "/"} and _PROBED.fullmatch(path) is not None
    )


def _is_ready_at_its_port(service: Mapping[str, Any]) -> bool:
    probes = [item.get("readinessProbe") or {} for item in service["spec"]["template"]["spec"]["containers"]]
    return all("httpGet" not in probe for probe in probes)


def _seconds(text: str | None, default: float) -> float:
    seconds = parse_duration(text) if text else None
    return default if seconds is None else float(seconds)
