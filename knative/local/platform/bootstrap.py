"""The objects that a platform has from its first start: namespaces, and Knative's ConfigMaps."""

from __future__ import annotations

from knative.client.resources import CONFIG_MAP, NAMESPACE
from knative.local import objects
from knative.local.apiserver.records import Key
from knative.local.apiserver.registry import Registry
from knative.local.controllers import settings

KNATIVE_VERSION = "1.23.0"
"""The release of Knative Serving whose behaviour the platform follows; a label of its namespace names it."""

_NAMESPACES = {
    "default": {},
    settings.NAMESPACE: {
        "app.kubernetes.io/name": "knative-serving",
        "app.kubernetes.io/version": KNATIVE_VERSION,
    },
}


def create_initial_objects(registry: Registry) -> None:
    """Create what is missing, and give the namespaces their labels."""
    for name, labels in _NAMESPACES.items():
        _ensure_namespace(registry, name, {"kubernetes.io/metadata.name": name, **labels})
    for name in settings.PARSERS:
        if registry.store.get(Key(CONFIG_MAP, settings.NAMESPACE, name)) is None:
            registry.create(CONFIG_MAP, settings.NAMESPACE, settings.initial(name))


def _ensure_namespace(registry: Registry, name: str, labels: dict[str, str]) -> None:
    key = Key(NAMESPACE, "", name)
    found = registry.store.get(key)
    if found is None:
        namespace = {
            "metadata": {"name": name, "labels": labels},
            "spec": {"finalizers": ["kubernetes"]},
            "status": {"phase": "Active"},
        }
        registry.create(NAMESPACE, "", objects.typed(NAMESPACE, namespace))
    elif not labels.items() <= objects.labels_of(found.obj).items():
        changed = objects.clone(found.obj)
        changed["metadata"]["labels"] = {**objects.labels_of(found.obj), **labels}
        registry.update(key, changed)
