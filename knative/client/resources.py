"""The kinds that the project uses, and their paths in a Kubernetes API (pure)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

Object = dict[str, Any]
"""A Kubernetes object as JSON: apiVersion, kind, metadata, spec, status."""


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind and its place in the API; `group` is empty for the core group."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """`group/version`, or just the version for the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(
        self, namespace: str | None = None, name: str | None = None, subresource: str | None = None
    ) -> str:
        """The URL path of a collection, an object or a subresource, without leading slash."""
        parts = ["apis", self.group, self.version] if self.group else ["api", self.version]
        if self.namespaced and namespace is not None:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        parts += [part for part in (name, subresource) if part is not None]
        return "/".join(quote(part, safe="") for part in parts)


SERVICE = Resource("serving.knative.dev", "v1", "services", "Service")
CONFIGURATION = Resource("serving.knative.dev", "v1", "configurations", "Configuration")
REVISION = Resource("serving.knative.dev", "v1", "revisions", "Revision")
ROUTE = Resource("serving.knative.dev", "v1", "routes", "Route")
POD_AUTOSCALER = Resource("autoscaling.internal.knative.dev", "v1alpha1", "podautoscalers", "PodAutoscaler")
WARM_POOL = Resource("pilotlight.dev", "v1alpha1", "warmpools", "WarmPool")
TRIGGER = Resource("pilotlight.dev", "v1alpha1", "triggers", "Trigger")
POD = Resource("", "v1", "pods", "Pod")
EVENT = Resource("", "v1", "events", "Event")
NAMESPACE = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
CONFIG_MAP = Resource("", "v1", "configmaps", "ConfigMap")
SECRET = Resource("", "v1", "secrets", "Secret")
NETWORK_POLICY = Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")
PEER_AUTHENTICATION = Resource("security.istio.io", "v1", "peerauthentications", "PeerAuthentication")
ISTIO_AUTHORIZATION = Resource("security.istio.io", "v1", "authorizationpolicies", "AuthorizationPolicy")
DESTINATION_RULE = Resource("networking.istio.io", "v1", "destinationrules", "DestinationRule")
LINKERD_SERVER = Resource("policy.linkerd.io", "v1beta3", "servers", "Server")
LINKERD_AUTHORIZATION = Resource(
    "policy.linkerd.io", "v1alpha1", "authorizationpolicies", "AuthorizationPolicy"
)
MESH_TLS_AUTHENTICATION = Resource(
    "policy.linkerd.io", "v1alpha1", "meshtlsauthentications", "MeshTLSAuthentication"
)
SERVICE_ACCOUNT = Resource("", "v1", "serviceaccounts", "ServiceAccount")
LEASE = Resource("coordination.k8s.io", "v1", "leases", "Lease")
DEPLOYMENT = Resource("apps", "v1", "deployments", "Deployment")
JOB = Resource("batch", "v1", "jobs", "Job")
CRON_JOB = Resource("batch", "v1", "cronjobs", "CronJob")
PERSISTENT_VOLUME = Resource("", "v1", "persistentvolumes", "PersistentVolume", namespaced=False)
PERSISTENT_VOLUME_CLAIM = Resource("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim")
NODE = Resource("", "v1", "nodes", "Node", namespaced=False)
