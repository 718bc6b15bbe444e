"""Samples of Prometheus pages, by the Service that they are about (pure)."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

Sample = tuple[str, Mapping[str, str], float]
"""Name, labels and value."""
Key = tuple[str, str]
"""Namespace and name."""


def by_service(samples: Iterable[Sample]) -> dict[Key, list[Sample]]:
    """The samples of the platform's metrics that name a Service, under Knative's labels or this project's."""
    found: defaultdict[Key, list[Sample]] = defaultdict(list)
    for sample in samples:
        labels = sample[1]
        namespace = labels.get("namespace_name") or labels.get("namespace")
        service = labels.get("service_name") or labels.get("service")
        if namespace and service:
            found[namespace, service].append(sample)
    return found


def total(samples: Iterable[Sample], name: str) -> float | None:
    """The sum of a metric's samples; None without any."""
    values = [value for key, _, value in samples if key == name]
    return sum(values) if values else None
