"""The secret of each Service for the endpoints that change its replicas' warmth, derived from one key.

Whoever runs a Service knows its own secret and can neither work out another's nor the key. The controller,
which has the key, needs no access to Secrets.
"""

from __future__ import annotations

import base64
import hashlib
import hmac


def service_token(key: str, namespace: str, service: str) -> str:
    """HMAC-SHA-256 of `NAMESPACE/SERVICE` under the key, in URL-safe base64 without padding."""
    digest = hmac.new(key.encode(), f"{namespace}/{service}".encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")
