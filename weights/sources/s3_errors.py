"""The exceptions of botocore as this package's."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import botocore.exceptions

from weights.errors import (
    AccessDeniedError,
    InvalidURIError,
    NoCredentialsError,
    NotFoundError,
    SourceError,
    TransferError,
    UnreachableError,
    WeightsError,
)

DENIED = {
    "AccessDenied", "AllAccessDisabled", "AccountProblem", "InvalidAccessKeyId", "SignatureDoesNotMatch",
    "ExpiredToken", "InvalidToken", "TokenRefreshRequired", "RequestExpired", "RequestTimeTooSkewed",
    "401", "403",
}  # fmt: skip
"""Codes that say that the credentials do not suffice."""


@contextlib.contextmanager
def translated(uri: str, bucket: str, describe: Callable[[], str]) -> Iterator[None]:
    """Raise this package's exceptions in place of botocore's.

    Args:
        uri: of what is asked for, for messages.
        bucket: its bucket.
        describe: gives endpoint and credentials in words.
    """
    try:
        yield
    except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError) as error:
        raise _translate(error, uri, bucket, describe()) from None


def error_code(error: botocore.exceptions.ClientError) -> str:
    """The code of an error response, such as `NoSuchKey`; the status where there is no other."""
    return str(error.response.get("Error", {}).get("Code", ""))


def _translate(error: Exception, uri: str, bucket: str, described: str) -> WeightsError:
    if isinstance(error, botocore.exceptions.ClientError):
        return _refusal(error, uri, bucket, described)
    if isinstance(
        error, botocore.exceptions.NoCredentialsError | botocore.exceptions.CredentialRetrievalError
    ):
        return NoCredentialsError(f"{uri}: {error}", uri=uri)
    if isinstance(error, botocore.exceptions.ParamValidationError):
        return InvalidURIError(f"{uri}: {error}")
    if isinstance(error, botocore.exceptions.HTTPClientError | botocore.exceptions.ConnectionError):
        return UnreachableError(
            f"{uri}: no answer from {described} ({error}); must be an endpoint that answers from here",
            uri=uri,
        )
    return SourceError(f"{uri}: {error}", uri=uri)


def _refusal(error: botocore.exceptions.ClientError, uri: str, bucket: str, described: str) -> SourceError:
    code = error_code(error)
    if code == "NoSuchBucket":
        return NotFoundError(
            f"{uri}: NoSuchBucket: there is no bucket {bucket!r} at {described}; "
            "must be a bucket that exists there",
            uri=uri,
        )
    if code in ("NoSuchKey", "404", "NotFound"):
        return NotFoundError(f"{uri}: {code}: no such object at {described}", uri=uri)
    if code in DENIED:
        return AccessDeniedError(
            f"{uri}: {code} from {described}; must be allowed s3:ListBucket on bucket {bucket!r} and "
            "s3:GetObject on its objects",
            uri=uri,
        )
    return TransferError(f"{uri}: {error} from {described}", uri=uri)
