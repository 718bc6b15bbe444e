"""Checks of the API, of rights, and of Knative Serving's version, flags and limits (pure)."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from knative import feature_flags
from knative.literals import parse_integer
from pilotlight.doctor.cluster_facts import ClusterFacts, Right
from pilotlight.doctor.findings import Finding, Level, Unknown, ok, unknown
from pilotlight.doctor.needs import StageNeeds

SERVING_NAMESPACE = "knative-serving"
_VERSION = re.compile(r"v?(\d+)\.(\d+)")
_REVISION_LEVER = (1, 21)
"""From here on a Revision's annotations reach its PodAutoscaler, and what is set there is put back."""
_MAX_TIMEOUT_S = 600
_MAX_CONCURRENCY = 1000


def api(facts: ClusterFacts) -> Iterator[Finding]:
    """Whether the API answers, and as what."""
    if isinstance(facts.version, Unknown):
        yield Finding(
            Level.ERROR,
            "api",
            f"{facts.server} cannot be used: {facts.version.because}",
            "name a kubeconfig whose context works: kubectl --kubeconfig FILE version",
        )
    else:
        what = "the local platform" if facts.local else f"Kubernetes {facts.version}"
        yield ok("api", f"{what} answers at {facts.server}")


def rights(facts: ClusterFacts) -> Iterator[Finding]:
    """Whether what a deploy does is permitted."""
    denied = [right for right, permitted in facts.rights.items() if permitted is False]
    unread = {right: known for right, known in facts.rights.items() if isinstance(known, Unknown)}
    if denied:
        yield Finding(
            Level.ERROR,
            "rights",
            f"this account may not {', '.join(map(str, denied))}: the deploy would stop there",
            "kubectl create rolebinding pilotlight-deploy --clusterrole=admin --user=YOU -n "
            f"{denied[0].namespace or 'default'} (the role knows warmpools once the controller is installed)",
        )
    for because in dict.fromkeys(fact.because for fact in unread.values()):
        yield unknown("rights", "which actions are permitted", Unknown(because))
    if not denied and not unread and facts.rights:
        yield ok("rights", f"this account may do what a deploy does ({_verbs(facts.rights)})")


def _verbs(rights_: Iterable[Right]) -> str:
    by_kind: dict[str, list[str]] = {}
    for right in rights_:
        verbs = by_kind.setdefault(right.resource, [])
        if right.verb not in verbs:
            verbs.append(right.verb)
    return "; ".join(f"{', '.join(verbs)} {kind}" for kind, verbs in by_kind.items())


def version(facts: ClusterFacts) -> Iterator[Finding]:
    """Knative Serving's version, and which lever moves the floor of a warm pool there."""
    serving = facts.serving
    if isinstance(serving, Unknown):
        yield unknown("knative", "Knative Serving's version", serving)
        return
    if serving is None:
        yield Finding(
            Level.ERROR,
            "knative",
            "Knative Serving is not installed: there are no Services to deploy to",
            "https://knative.dev/docs/install/",
        )
        return
    found = _VERSION.match(serving)
    if found is None:
        yield Finding(
            Level.WARNING, "knative", f"Knative Serving's version {serving!r} is not one that is known"
        )
    elif (int(found[1]), int(found[2])) >= _REVISION_LEVER:
        yield ok("knative", f"Knative Serving {serving}: min-scale of the Revision moves the floor")
    else:
        yield Finding(
            Level.WARNING,
            "knative",
            f"Knative Serving {serving}: before 1.21 the floor is moved on the PodAutoscaler, which no "
            "Service's owner sees",
            "upgrade Knative Serving to 1.21 or later, one minor version at a time",
        )


def flags(facts: ClusterFacts, needs: Sequence[StageNeeds]) -> Iterator[Finding]:
    """Whether the feature flags that the agents' fields need are set, with one patch for all."""
    needed: dict[str, list[str]] = {}
    for need in needs:
        for flag, field in feature_flags.needed(need.spec).items():
            if flag not in feature_flags.ON_BY_DEFAULT or not isinstance(facts.features, Unknown):
                needed.setdefault(flag, []).append(f"{need.service} ({field})")
    if isinstance(facts.features, Unknown):
        if needed:
            found = unknown("flags", f"config-features, where {', '.join(needed)} are needed", facts.features)
            yield Finding(found.level, found.check, found.text, "if a flag is missing: " + patch(needed))
        return
    missing = {
        flag: users for flag, users in needed.items() if not feature_flags.is_enabled(flag, facts.features)
    }
    if missing:
        listed = "; ".join(
            f"{feature_flags.PREFIX}{flag} for {', '.join(users)}" for flag, users in missing.items()
        )
        yield Finding(Level.ERROR, "flags", f"not enabled in config-features: {listed}", patch(missing))
    elif needed:
        yield ok("flags", f"config-features enables {', '.join(needed)}")
    elif needs:
        yield ok("flags", "no feature flag is needed")


def patch(missing: Iterable[str]) -> str:
    """The command that enables feature flags."""
    return _merge_patch(
        feature_flags.CONFIG_MAP_NAME, {f"{feature_flags.PREFIX}{flag}": "enabled" for flag in missing}
    )


def _merge_patch(config_map: str, data: Mapping[str, str]) -> str:
    body = json.dumps({"data": data}, separators=(",", ":"))
    return f"kubectl -n {SERVING_NAMESPACE} patch configmap {config_map} --type merge -p '{body}'"


def limits(facts: ClusterFacts, needs: Sequence[StageNeeds]) -> Iterator[Finding]:
    """Whether time-outs, concurrency and initial scale are within what the cluster allows."""
    if isinstance(facts.defaults, Unknown):
        yield unknown("limits", "config-defaults", facts.defaults)
        return
    bounds = [
        ("max-revision-timeout-seconds", _MAX_TIMEOUT_S, _timeouts),
        ("container-concurrency-max-limit", _MAX_CONCURRENCY, _concurrency),
    ]
    found: list[tuple[StageNeeds, str, int, str, int]] = []
    wanted: dict[str, str] = {}
    for key, default, read in bounds:
        bound = _integer(facts.defaults, key, default)
        over = [(need, *asked) for need in needs for asked in read(need) if asked[1] > bound]
        found += [(need, field, value, key, bound) for need, field, value in over]
        if over:
            wanted[key] = str(max(value for _, _, value in over))
    for need, field, value, key, bound in found:
        yield Finding(
            Level.ERROR,
            "limits",
            f"{value} of {need.service} must be at most {bound}, {key} in config-defaults",
            _merge_patch("config-defaults", wanted),
            need.own_field(field),
            need.agent,
        )
    zero = list(_initial_scales(facts, needs))
    yield from zero
    if not found and not zero:
        values = ", ".join(f"{key} {_integer(facts.defaults, key, default)}" for key, default, _ in bounds)
        yield ok("limits", f"time-outs and concurrency are within config-defaults ({values})")


def _timeouts(need: StageNeeds) -> Iterator[tuple[str, int]]:
    """Those that the file sets; the other one follows from it."""
    for field in ("timeoutSeconds", "responseStartTimeoutSeconds"):
        if field in need.settings:
            yield field, int(need.spec[field])


def _concurrency(need: StageNeeds) -> Iterator[tuple[str, int]]:
    yield "scaling", int(need.spec.get("containerConcurrency") or 0)


def _initial_scales(facts: ClusterFacts, needs: Sequence[StageNeeds]) -> Iterator[Finding]:
    key = "allow-zero-initial-scale"
    asking = [need for need in needs if need.initial_scale == 0]
    if not asking or isinstance(facts.autoscaling, Unknown):
        return
    if facts.autoscaling.get(key, "false").lower() != "true":
        yield Finding(
            Level.ERROR,
            "limits",
            f"initial = 0 of {', '.join(need.service for need in asking)} is not allowed by {key} in "
            "config-autoscaler",
            _merge_patch("config-autoscaler", {key: "true"}),
            asking[0].own_field("scaling"),
            asking[0].agent,
        )


def _integer(data: Mapping[str, str], key: str, default: int) -> int:
    value = parse_integer(data.get(key, ""))
    return default if value is None else value
