"""How many replicas would bring what each uses to its target: the HorizontalPodAutoscaler's arithmetic.

Pure, and as Kubernetes does it down to the truncation of its integers: CPU in thousandths of a core, memory
in thousandths of a byte. What replicas without a measurement use is assumed so that nothing is scaled too far
for want of it. Source: pkg/controller/podautoscaler/{replica_calculator.go,metrics/utilization.go}.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CPU = "cpu"
MEMORY = "memory"
TOLERANCE = 0.1
"""A ratio of use to target this near to one changes nothing."""
CPU_INITIALIZATION_S = 300.0
"""For so long after its start a replica's CPU time counts only once it has been ready for a whole sample."""
INITIAL_READINESS_DELAY_S = 30.0
"""A replica that became unready within so long after its start has never been ready."""


class NoProposal(Exception):  # noqa: N818  # nothing failed; there is nothing to go by
    """Nothing can be proposed; the text is Kubernetes'."""


@dataclass(frozen=True, slots=True)
class Target:
    """What replicas should use on average: of `resource`, either a percentage of the request or an amount."""

    resource: str
    """`CPU`, `MEMORY`, or the name of somebody else's metric."""
    utilization: int | None = None
    """Percent of the request."""
    average: int | None = None
    """Thousandths of the unit, where `utilization` is None."""


@dataclass(frozen=True, slots=True)
class Pod:
    """One replica as its Pod object tells of it. Instants are seconds of one clock."""

    name: str
    running: bool = True
    """Its phase is past Pending."""
    ignored: bool = False
    """It is ending, or has failed."""
    ready: bool | None = None
    """The Ready condition; None where there is none."""
    ready_changed: float = 0.0
    """When that condition last changed."""
    started: float | None = None
    requests: Sequence[tuple[str, int | None]] = ()
    """For each container its name and what it asks for, in thousandths; None: nothing."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What one replica used, in thousandths, on average over the `window_s` seconds that ended at `at`."""

    value: int
    at: float
    window_s: float


@dataclass(frozen=True, slots=True)
class Observation:
    """What is known at an instant."""

    now: float
    pods: Sequence[Pod]
    """All that there are, ending ones too."""
    samples: Mapping[str, Sample]
    """What those that were measured use, by name."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """The number of replicas that the measurements ask for, and what they say."""

    replicas: int
    average: int
    """Used by each replica that counts, in thousandths."""
    utilization: int | None = None
    """The same in percent of the requests, where those matter."""


@dataclass(frozen=True, slots=True)
class Groups:
    """The replicas by what their measurements are worth."""

    ready: int
    unready: frozenset[str]
    missing: frozenset[str]
    ignored: frozenset[str]


def group(seen: Observation, resource: str) -> Groups:
    """Part the replicas: those that count, not ready, without a measurement, and on their way out."""
    ready = 0
    unready, missing, ignored = set(), set(), set()
    for pod in seen.pods:
        if pod.ignored:
            ignored.add(pod.name)
        elif not pod.running:
            unready.add(pod.name)
        elif pod.name not in seen.samples:
            missing.add(pod.name)
        elif resource == CPU and _is_unready(pod, seen.samples[pod.name], seen.now):
            unready.add(pod.name)
        else:
            ready += 1
    return Groups(ready, frozenset(unready), frozenset(missing), frozenset(ignored))


def _is_unready(pod: Pod, sample: Sample, now: float) -> bool:
    if pod.ready is None or pod.started is None:
        return True
    if pod.started + CPU_INITIALIZATION_S > now:
        return not pod.ready or sample.at < pod.ready_changed + sample.window_s
    return not pod.ready and pod.started + INITIAL_READINESS_DELAY_S > pod.ready_changed


@dataclass(frozen=True, slots=True)
class _Measure:
    """Ratio of use to target over a set of replicas, and what replicas without a measurement stand for."""

    target: Target
    requests: Mapping[str, int]

    def ratio(self, used: Mapping[str, int]) -> tuple[float, Proposal]:
        """The ratio, and a proposal that lacks its number of replicas."""
        if self.target.utilization is None:
            assert self.target.average is not None
            average = sum(used.values()) // len(used)
            return average / self.target.average, Proposal(0, average)
        known = {name: value for name, value in used.items() if name in self.requests}
        asked = sum(self.requests[name] for name in known)
        if not asked:
            raise NoProposal("no metrics returned matched known pods")
        total = sum(known.values())
        percent = total * 100 // asked
        return percent / self.target.utilization, Proposal(0, total // len(known), percent)

    def assumed(self, name: str) -> int:
        """What a replica without a measurement is taken to use when the others use too little."""
        if self.target.utilization is None:
            assert self.target.average is not None
            return self.target.average
        return self.requests[name] * max(100, self.target.utilization) // 100


def propose(target: Target, current: int, seen: Observation) -> Proposal:
    """The number of replicas in the place of `current` ones.

    Raises:
        NoProposal: the measurements say nothing.
    """
    if not seen.samples:
        raise NoProposal(
            f"unable to get metrics for resource {target.resource}: "
            "no metrics returned from resource metrics API"
        )
    if not seen.pods:
        raise NoProposal("no pods returned by selector while calculating replica count")
    groups = group(seen, target.resource)
    out = groups.ignored | groups.unready
    used = {name: sample.value for name, sample in seen.samples.items() if name not in out}
    if not used:
        raise NoProposal("did not receive metrics for targeted pods (pods might be unready)")
    measure = _Measure(target, {} if target.utilization is None else _requests(seen.pods, target.resource))
    ratio, found = measure.ratio(used)
    with_unready = bool(groups.unready) and ratio > 1.0
    if not with_unready and not groups.missing:
        replicas = current if _is_near(ratio) else math.ceil(ratio * groups.ready)
        return Proposal(replicas, found.average, found.utilization)
    if ratio < 1.0:
        used |= {name: measure.assumed(name) for name in groups.missing}
    elif ratio > 1.0:
        used |= dict.fromkeys(groups.missing, 0)
    if with_unready:
        used |= dict.fromkeys(groups.unready, 0)
    careful, _ = measure.ratio(used)
    replicas = math.ceil(careful * len(used))
    turned = (ratio < 1.0 < careful) or (careful < 1.0 < ratio)
    backwards = (careful < 1.0 and replicas > current) or (careful > 1.0 and replicas < current)
    if _is_near(careful) or turned or backwards:
        replicas = current
    return Proposal(replicas, found.average, found.utilization)


def _is_near(ratio: float) -> bool:
    return 1.0 - TOLERANCE <= ratio <= 1.0 + TOLERANCE


def _requests(pods: Sequence[Pod], resource: str) -> dict[str, int]:
    found = {}
    for pod in pods:
        total = 0
        for container, amount in pod.requests:
            if amount is None:
                raise NoProposal(f"missing request for {resource} in container {container} of Pod {pod.name}")
            total += amount
        found[pod.name] = total
    return found
