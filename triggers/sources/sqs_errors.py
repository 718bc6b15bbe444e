"""botocore's exceptions as this package's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import botocore.exceptions

from triggers.sources.base import (
    BrokerError,
    BrokerMisconfiguredError,
    BrokerUnavailableError,
    MessageRefusedError,
)

_DENIED = {
    "AccessDenied", "AccessDeniedException", "AuthFailure", "ExpiredToken", "InvalidAccessKeyId",
    "InvalidClientTokenId", "InvalidSecurity", "MissingAuthenticationToken", "NotAuthorized", "OptInRequired",
    "SignatureDoesNotMatch", "UnrecognizedClientException", "KMS.AccessDeniedException",
}  # fmt: skip
_MISSING = {
    "AWS.SimpleQueueService.NonExistentQueue",
    "NonExistentQueue",
    "QueueDoesNotExist",
    "InvalidAddress",
}
_REFUSED = {
    "InvalidMessageContents", "InvalidParameterValue", "InvalidParameterValueException", "MissingParameter",
    "AWS.SimpleQueueService.BatchRequestTooLong", "UnsupportedOperation",
}  # fmt: skip
_STALE = {"ReceiptHandleIsInvalid", "MessageNotInflight", "AWS.SimpleQueueService.MessageNotInflight"}


class StaleReceiptError(BrokerError):
    """The delivery is no longer ours: its visibility timeout has passed, or the message is gone."""


@contextlib.contextmanager
def translated(queue: str, endpoint: str) -> Iterator[None]:
    """Raise this package's exceptions in place of botocore's."""
    try:
        yield
    except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError) as error:
        raise _translate(error, queue, endpoint) from None


def error_of_entry(code: str, message: str, queue: str) -> BrokerError:
    """The error of one entry of a batch."""
    if code in _STALE:
        return StaleReceiptError(f"{queue}: {code}")
    if code in _REFUSED:
        return MessageRefusedError(f"{queue}: {code}: {message}")
    return BrokerUnavailableError(f"{queue}: {code}: {message}")


def _translate(error: Exception, queue: str, endpoint: str) -> BrokerError:
    if isinstance(error, botocore.exceptions.ClientError):
        return _refusal(error, queue, endpoint)
    line = " ".join(str(error).split())
    missing = (
        botocore.exceptions.NoCredentialsError
        | botocore.exceptions.PartialCredentialsError
        | botocore.exceptions.NoRegionError
        | botocore.exceptions.ProfileNotFound
        | botocore.exceptions.ParamValidationError
        | botocore.exceptions.InvalidRegionError
    )
    if isinstance(error, missing):
        return BrokerMisconfiguredError(f"{queue}: {line}")
    return BrokerUnavailableError(f"{queue}: no answer from {endpoint}: {line}")


def _refusal(error: botocore.exceptions.ClientError, queue: str, endpoint: str) -> BrokerError:
    details = error.response.get("Error", {})
    code, message = str(details.get("Code", "")), " ".join(str(details.get("Message", "")).split())
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in _MISSING:
        return BrokerMisconfiguredError(f"{queue}: there is no such queue at {endpoint}")
    if code in _DENIED:
        return BrokerMisconfiguredError(
            f"{queue}: {code} from {endpoint}; the credentials must be allowed sqs: actions"
        )
    if code in _STALE:
        return StaleReceiptError(f"{queue}: {code}")
    if code in _REFUSED:
        return MessageRefusedError(f"{queue}: {code}: {message}")
    if (
        400 <= status < 500
        and status not in {408, 425, 429}
        and "Throttl" not in code
        and code != "RequestLimitExceeded"
    ):
        return BrokerMisconfiguredError(f"{queue}: {code or status} from {endpoint}: {message}")
    return BrokerUnavailableError(f"{queue}: {code or status} from {endpoint}: {message}")
