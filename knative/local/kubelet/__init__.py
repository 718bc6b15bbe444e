"""The kubelet: runs each pod's containers as processes, from the GPU slot to the last signal."""

from __future__ import annotations

from knative.local.kubelet.kubelet import Kubelet, KubeletConfig, ReplicaTls

__all__ = ["Kubelet", "KubeletConfig", "ReplicaTls"]
