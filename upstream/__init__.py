"""An HTTP/1.1 client for proxies: bytes of a request in, bytes of its answer out as they come.

A general client builds a request from parts (URL, cookies, encodings, redirects, retries) and takes its
answer apart again. A proxy has both as bytes already, and pays for the rest with every request: see
docs/adr/0012-a-client-for-proxies.md.
"""

from upstream.connection import LostError, ProtocolError, Response, UpstreamError
from upstream.pool import Address, Pool, RefusedError

__all__ = [
    "Address",
    "LostError",
    "Pool",
    "ProtocolError",
    "RefusedError",
    "Response",
    "UpstreamError",
]
