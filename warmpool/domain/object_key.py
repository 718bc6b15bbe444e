"""How the domain names a Kubernetes object of a known kind."""

from __future__ import annotations

ObjectKey = tuple[str, str]
"""Namespace and name."""
