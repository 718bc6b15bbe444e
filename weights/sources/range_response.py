"""Whether the response to a ranged read carries exactly the bytes asked for, and what its failure means."""

from __future__ import annotations

import dataclasses
import http.client
import re

from weights.errors import AccessDeniedError, NotFoundError, ObjectChangedError, TransferError

_RETRYABLE = frozenset({408, 425, 429, 500, 502, 503, 504})
_OVERLOADED = frozenset({429, 503})
_ERROR_CODE = re.compile(rb"<Code>([^<]{1,100})</Code>")
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


@dataclasses.dataclass(frozen=True)
class ObjectVersion:
    """The version of an object that is read."""

    url: str
    etag: str | None
    """As in the `ETag` header; any version when None."""
    size: int
    uri: str
    """For messages."""


@dataclasses.dataclass
class RetryableError(Exception):
    """A failed attempt that may succeed when repeated, and how many bytes it brought all the same."""

    reason: str
    received: int
    overloaded: bool = False
    """The store asks for fewer requests."""
    unconnected: bool = False
    """There was no connection."""
    stale: bool = False
    """The server had closed an idle connection: not a failure of the read."""


def check(
    response: http.client.HTTPResponse, target: ObjectVersion, first: int, last: int, *, endpoint: str
) -> None:
    """Accept only a response that carries bytes `first` to `last` (inclusive) of the version asked for.

    Args:
        response: headers read, body not.
        target: what was asked for.
        first: first byte asked for.
        last: last byte asked for.
        endpoint: endpoint and credentials in words, for messages.

    Raises:
        RetryableError: the response is an error that may pass.
        SourceError: it is an error that stays.
    """
    if response.status not in (200, 206):
        _raise_for_status(response, target.uri, endpoint)
    served = response.getheader("ETag")
    if target.etag is not None and served is not None and served != target.etag:
        raise ObjectChangedError(
            f"{target.uri}: was replaced during the read (ETag {target.etag}, now {served})", uri=target.uri
        )
    if response.status == 206:
        match = _CONTENT_RANGE.fullmatch(response.getheader("Content-Range") or "")
        if match is None or (int(match[1]), int(match[2])) != (first, last):
            got = response.getheader("Content-Range")
            raise RetryableError(f"asked for bytes {first}-{last}, got {got}", 0)
        total = match[3]
    else:
        total = response.getheader("Content-Length") or "*"
        if (first, last) != (0, target.size - 1):
            raise TransferError(
                f"{target.uri}: {endpoint} ignores Range; must be an endpoint that serves ranges",
                uri=target.uri,
            )
    if total not in ("*", str(target.size)):
        raise ObjectChangedError(
            f"{target.uri}: was replaced during the read ({target.size} bytes, now {total})", uri=target.uri
        )


def _raise_for_status(response: http.client.HTTPResponse, uri: str, endpoint: str) -> None:
    status = response.status
    code_match = _ERROR_CODE.search(response.read(4096))
    code = code_match[1].decode("ascii", "replace") if code_match else response.reason
    problem = f"{uri}: {status} {code} from {endpoint}"
    if status in (412, 416):
        raise ObjectChangedError(f"{problem}; it was replaced during the read", uri=uri)
    if status in (404, 410):
        raise NotFoundError(f"{problem}; must be an object that exists", uri=uri)
    if status in (401, 403) or (status == 400 and "Token" in code):
        raise AccessDeniedError(f"{problem}; must be allowed s3:GetObject on it", uri=uri)
    if status in _RETRYABLE:
        raise RetryableError(f"{status} {code}", 0, overloaded=status in _OVERLOADED)
    raise TransferError(problem, uri=uri)
