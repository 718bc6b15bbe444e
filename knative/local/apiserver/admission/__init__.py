"""What is refused, filled in or warned of before an object is stored, as Knative's webhooks do it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from knative.client import resources
from knative.client.resources import Resource
from knative.local.apiserver.admission.core_kinds import NamespaceAdmission, SecretAdmission
from knative.local.apiserver.admission.knative_kinds import (
    ConfigurationAdmission,
    PodAutoscalerAdmission,
    RevisionAdmission,
    RouteAdmission,
    ServiceAdmission,
    UnsupportedWarnings,
)
from knative.local.apiserver.admission.serving_config import ServingConfig
from knative.local.apiserver.validation import Admission


def admissions(
    features: Callable[[], ServingConfig], lacking: UnsupportedWarnings
) -> Mapping[Resource, Admission]:
    """The admission of each kind.

    Args:
        features: asked at each check, so settings act at once.
        lacking: what a Revision with that specification asks for and this machine can't give.
    """
    return {
        resources.SERVICE: ServiceAdmission(features, lacking),
        resources.CONFIGURATION: ConfigurationAdmission(features, lacking),
        resources.REVISION: RevisionAdmission(features, lacking),
        resources.ROUTE: RouteAdmission(),
        resources.NAMESPACE: NamespaceAdmission(),
        resources.SECRET: SecretAdmission(),
        resources.POD_AUTOSCALER: PodAutoscalerAdmission(features),
    }
