"""Admission by kind: defaults, denials and warnings before an object is stored."""

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
    config: Callable[[], ServingConfig], unsupported: UnsupportedWarnings
) -> Mapping[Resource, Admission]:
    """The admission of each kind that has one.

    Args:
        config: Knative's settings, asked for at each check, so that they act at once.
        unsupported: makes warnings of what this machine can't give.
    """
    return {
        resources.SERVICE: ServiceAdmission(config, unsupported),
        resources.CONFIGURATION: ConfigurationAdmission(config, unsupported),
        resources.REVISION: RevisionAdmission(config, unsupported),
        resources.ROUTE: RouteAdmission(),
        resources.NAMESPACE: NamespaceAdmission(),
        resources.SECRET: SecretAdmission(),
        resources.POD_AUTOSCALER: PodAutoscalerAdmission(config),
    }
