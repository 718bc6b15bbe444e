"""Replicas: one process for each pod, from its GPU slot to its last signal."""

from __future__ import annotations

from knative.local.kubelet.manager import Replicas, ReplicaSettings

__all__ = ["ReplicaSettings", "Replicas"]
