"""The one HTTP toolbox.

    pool, connection   a client for proxies: bytes of a request in, bytes of its response out as they come
    headers            which fields a proxy passes on
    propagation        fields in which servers tell each other about a request
    sse                server-sent events
    request_head       a server's limits on the head of a request
    one_write          a server's response head goes out with what follows it

A general client builds a request from parts (URL, cookies, encodings, redirects, retries) and takes its
response apart again. A proxy has both as bytes already, and pays for the rest with every request: see
docs/adr/0010-a-client-for-proxies.md.
"""
