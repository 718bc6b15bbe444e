"""HTTP/1.1 for proxies: bytes of a request in, bytes of its answer out as they come.

    pool         a client: connections that are kept for the next request
    connection   one of them
    one_write    a server's side: a response's head goes out with what follows it

A general client builds a request from parts (URL, cookies, encodings, redirects, retries) and takes its
answer apart again. A proxy has both as bytes already, and pays for the rest with every request: see
docs/adr/0012-a-client-for-proxies.md.
"""

from transport.connection import ConnectionLostError, ProtocolError, UpstreamError, UpstreamResponse
from transport.pool import Address, ConnectError, ConnectionPool

__all__ = [
    "Address",
    "ConnectError",
    "ConnectionLostError",
    "ConnectionPool",
    "ProtocolError",
    "UpstreamError",
    "UpstreamResponse",
]
