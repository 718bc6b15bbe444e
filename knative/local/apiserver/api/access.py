"""Who may send requests: the bearer token, the Host and the Origin (pure).

The token keeps everybody else out; Host and Origin keep out web pages that the user's own browser shows.
A page whose name resolves to a loopback address (DNS rebinding) would otherwise read `/metrics`, which
needs no token.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection

from knative.local.apiserver.errors import ApiError
from transport.authority import host_name, is_address, is_local_name

ANY = "*"
"""Among the allowed hosts: every name is allowed."""


class AccessRules:
    """Checks the header fields of each request.

    Args:
        token: the bearer token.
        hosts: names beside `localhost` and IP addresses under which the API may be reached.
    """

    def __init__(self, token: str, hosts: Collection[str] = ()) -> None:
        self._token = f"Bearer {token}".encode()
        self._hosts = frozenset(host.lower() for host in hosts)

    def check_host(self, host: str, origin: str | None) -> None:
        """Refuse a request that was made under another name, or from a page of another site.

        Raises:
            ApiError: 403.
        """
        if not self._is_allowed(host):
            raise ApiError(
                403,
                "Forbidden",
                f"the host {host[:256]!r} is not a name of this API: use localhost, an IP address, or one of "
                f"its allowed hosts ({', '.join(sorted(self._hosts)) or 'none'})",
            )
        if origin is not None and not self._is_allowed(origin.partition("://")[2]):
            raise ApiError(403, "Forbidden", f"requests from pages of {origin[:256]!r} are not allowed")

    def check_token(self, authorization: str) -> None:
        """Refuse a request without the token.

        Raises:
            ApiError: 401.
        """
        if not hmac.compare_digest(authorization.encode(), self._token):
            raise ApiError(401, "Unauthorized", "Unauthorized")

    def _is_allowed(self, authority: str) -> bool:
        name = host_name(authority)
        return is_local_name(name) or is_address(name) or bool({name, ANY} & self._hosts)
