"""What is refused, filled in or warned of before an object is stored, as Knative's webhooks do it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from knative import cluster
from knative.cluster import Resource
from knative.local.admission.core import NamespaceAdmission, SecretAdmission
from knative.local.admission.features import Features
from knative.local.admission.serving import (
    ConfigurationAdmission,
    RevisionAdmission,
    RouteAdmission,
    ServiceAdmission,
)
from knative.local.registry import Admission


def admissions(features: Callable[[], Features]) -> Mapping[Resource, Admission]:
    """The admission of each kind; `features` is asked at each check, so settings act at once."""
    return {
        cluster.SERVICE: ServiceAdmission(features),
        cluster.CONFIGURATION: ConfigurationAdmission(features),
        cluster.REVISION: RevisionAdmission(features),
        cluster.ROUTE: RouteAdmission(),
        cluster.NAMESPACE: NamespaceAdmission(),
        cluster.SECRET: SecretAdmission(),
    }
