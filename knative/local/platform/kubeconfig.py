"""The kubeconfig that leads clients to the platform's API; it exists while the platform runs."""

from __future__ import annotations

import base64
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import yaml

from knative.client.resources import Object

NAME = "pilotlight"


@contextlib.contextmanager
def written(path: Path, *, server: str, token: str, certificate: Path) -> Iterator[None]:
    """Have the file there for as long as the context lasts, readable by its owner only.

    Args:
        path: where.
        server: the API's URL; https, for client-go sends a token over TLS only.
        token: the API's bearer token.
        certificate: the API's own, which clients are to trust (PEM).
    """
    new = path.with_suffix(".new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        yaml.safe_dump(_content(server, token, certificate.read_bytes()), file, sort_keys=False)
    new.replace(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _content(server: str, token: str, certificate: bytes) -> Object:
    cluster = {"server": server, "certificate-authority-data": base64.b64encode(certificate).decode()}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": NAME,
        "clusters": [{"name": NAME, "cluster": cluster}],
        "users": [{"name": NAME, "user": {"token": token}}],
        "contexts": [
            {"name": NAME, "context": {"cluster": NAME, "user": NAME, "namespace": "default"}},
        ],
    }
