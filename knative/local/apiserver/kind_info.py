"""What the API knows of a kind that it serves (pure)."""

from __future__ import annotations

from dataclasses import dataclass

from knative.client.resources import Resource
from knative.local.apiserver.printer_columns import Column
from knative.local.apiserver.schemas.structural import Schema


@dataclass(frozen=True, slots=True)
class KindInfo:
    """A kind that the API serves."""

    resource: Resource
    singular: str
    schema: Schema
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()
    """Columns of `kubectl get`; none means the age."""
    name_column: bool = True
    """Whether the name stands before the other columns."""
    has_status: bool = True
    """Whether status is a subresource, and `metadata.generation` counts changes of everything else."""
    custom: bool = True
    """Whether the kind is a custom resource on a cluster, and not one of Kubernetes' own."""
    unconditional_update: bool = False
    """Whether a PUT without a resourceVersion is taken (`AllowUnconditionalUpdate` in Kubernetes)."""
    has_rules: bool = False
    """Whether its schema has CEL rules."""
    verbs: tuple[str, ...] = (
        "create",
        "delete",
        "deletecollection",
        "get",
        "list",
        "patch",
        "update",
        "watch",
    )
