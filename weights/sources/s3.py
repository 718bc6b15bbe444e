"""Models in S3, and in anything that speaks its language.

boto3's own client lists and heads, so that endpoint, region, addressing style, redirects between regions and
credentials are exactly what the AWS command line would use; the URL of its list request is then the base of
the ranged reads, which carry the weights' bytes and are signed with the same credentials.
"""

from __future__ import annotations

import base64
import binascii
import functools
import re
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import boto3
import botocore.auth
import botocore.awsrequest
import botocore.config
import botocore.credentials
import botocore.exceptions
import botocore.httpsession
import botocore.loaders
import botocore.session

from weights.errors import (
    AccessDeniedError,
    InvalidURIError,
    NoCredentialsError,
    NotFoundError,
    SourceError,
    TransferError,
    UnreachableError,
)
from weights.manifest import FileEntry
from weights.sources.ranged_reader import RangedReader
from weights.sources.retry_policy import RetryPolicy

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from weights.sources.address import S3Location
    from weights.sources.source import Arrived

_SCOPE = re.compile(r"Credential=[^/]+/\d{8}/([^/]+)/")
_DENIED = {
    "AccessDenied", "AllAccessDisabled", "AccountProblem", "InvalidAccessKeyId", "SignatureDoesNotMatch",
    "ExpiredToken", "InvalidToken", "TokenRefreshRequired", "RequestExpired", "RequestTimeTooSkewed",
    "401", "403",
}  # fmt: skip
_METHODS = {
    "env": "environment variables",
    "shared-credentials-file": "the shared credentials file",
    "config-file": "the shared configuration file",
    "assume-role": "an assumed role",
    "assume-role-with-web-identity": "a web identity token",
    "sso": "IAM Identity Center",
    "iam-role": "the instance's role",
    "container-role": "the container's role",
}


@functools.lru_cache(maxsize=4)
def _service_data(search_path: str | None) -> botocore.loaders.Loader:
    """Botocore's descriptions of S3: a tenth of a second to parse, and the same for every client."""
    return botocore.loaders.create_loader(search_path)


class S3Source:
    """A prefix in a bucket."""

    def __init__(self, location: S3Location, *, retry: RetryPolicy | None = None) -> None:
        self._location = location
        self._retry = retry or RetryPolicy()
        self._reader: RangedReader | None = None
        self._list_request: tuple[str, str] | None = None
        try:
            core = botocore.session.Session()
            core.register_component("data_loader", _service_data(core.get_config_variable("data_path")))
            session = boto3.session.Session(botocore_session=core)
            credentials = session.get_credentials()
            self._client: S3Client = session.client(
                "s3",
                region_name=session.region_name or "us-east-1",
                config=botocore.config.Config(
                    connect_timeout=self._retry.connect_timeout,
                    read_timeout=self._retry.read_timeout,
                    retries={"total_max_attempts": self._retry.connect_attempts, "mode": "standard"},
                    signature_version="s3v4",
                ),
            )
        except (botocore.exceptions.BotoCoreError, ValueError) as error:
            raise SourceError(
                f"{self.uri}: the AWS configuration is not valid: {error}", uri=self.uri
            ) from None
        if credentials is None:
            raise NoCredentialsError(
                f"{self.uri}: no AWS credentials; looked in the environment (AWS_ACCESS_KEY_ID), the shared "
                "credentials and configuration files, and the container's and the instance's role",
                uri=self.uri,
            )
        self._credentials = credentials
        self._ca_file = core.get_config_variable("ca_bundle")
        self._client.meta.events.register("before-send.s3.ListObjectsV2", self._note_request)

    @property
    def uri(self) -> str:
        """The prefix as it was given."""
        return f"s3://{self._location.bucket}/{self._location.prefix}".rstrip("/")

    @property
    def identity(self) -> str:
        """Endpoint and prefix: the same bucket name at two endpoints is two buckets."""
        return f"{self.endpoint} {self.uri}"

    @property
    def bucket(self) -> str:
        """The bucket's name."""
        return self._location.bucket

    @property
    def endpoint(self) -> str:
        """Where requests go."""
        return str(self._client.meta.endpoint_url)

    def list(self) -> tuple[FileEntry, ...]:
        """Every object below the prefix, with its SHA-256 where the store holds one for the whole object."""
        prefix = f"{self._location.prefix}/" if self._location.prefix else ""
        entries = []
        for item in self._objects(prefix):
            key = item["Key"]
            path = key[len(prefix) :]
            if not path or path.endswith("/"):
                continue  # a folder's own marker
            entry = FileEntry(path, item["Size"], item["ETag"])
            if "SHA256" in item.get("ChecksumAlgorithm", ()) and item.get("ChecksumType") != "COMPOSITE":
                entry = self.head(entry)
            entries.append(entry)
        if not entries:
            raise NotFoundError(
                f"{self.uri}: no object there at {self.describe()}{self._neighbours()}", uri=self.uri
            )
        return tuple(entries)

    def head(self, entry: FileEntry) -> FileEntry:
        """The object as it is now, with its SHA-256 if the store holds one for the whole object."""
        uri = f"{self.uri}/{entry.path}"
        with _translated(self, uri):
            found = self._client.head_object(
                Bucket=self._location.bucket, Key=self._key(entry.path), ChecksumMode="ENABLED"
            )
        return FileEntry(
            entry.path, found["ContentLength"], found["ETag"], _sha256(found.get("ChecksumSHA256"))
        )

    def read_into(
        self, entry: FileEntry, offset: int, view: memoryview, arrived: Arrived | None = None
    ) -> None:
        """Fill `view` by ranged GETs, resumed and repeated as in `weights.sources.ranged_reader`."""
        uri = f"{self.uri}/{entry.path}"
        if self._reader is None:
            self._reader = self._open_reader()
        self._reader.read_into(
            self._key(entry.path), entry.etag, entry.size, offset, view, uri=uri, arrived=arrived
        )

    def close(self) -> None:
        """Close connections; reads under way give up."""
        if self._reader is not None:
            self._reader.close()
        self._client.close()

    def _key(self, path: str) -> str:
        return f"{self._location.prefix}/{path}" if self._location.prefix else path

    def _objects(self, prefix: str) -> Iterator[Any]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._location.bucket, Prefix=prefix
        )
        with _translated(self, self.uri):
            for page in pages:
                yield from page.get("Contents", ())

    def _neighbours(self) -> str:
        """What the bucket does hold, to make a typing mistake visible."""
        with _translated(self, self.uri):
            page = self._client.list_objects_v2(Bucket=self._location.bucket, Delimiter="/", MaxKeys=5)
        names = [item["Prefix"] for item in page.get("CommonPrefixes", ())]
        names += [item["Key"] for item in page.get("Contents", ())]
        return f"; the bucket holds {', '.join(names)}" if names else "; the bucket is empty"

    def _note_request(self, request: botocore.awsrequest.AWSPreparedRequest, **_: object) -> None:
        authorization = request.headers.get("Authorization", "")
        if isinstance(authorization, bytes):
            authorization = authorization.decode("ascii")
        scope = _SCOPE.search(authorization)
        self._list_request = (request.url, scope[1] if scope else "us-east-1")

    def _open_reader(self) -> RangedReader:
        if self._list_request is None:
            with _translated(self, self.uri):
                self._client.list_objects_v2(Bucket=self._location.bucket, MaxKeys=1)
        assert self._list_request is not None
        url, region = self._list_request
        parts = urllib.parse.urlsplit(url)
        base = urllib.parse.urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))
        credentials = self._credentials

        def sign(url: str, headers: Mapping[str, str]) -> Mapping[str, str]:
            request = botocore.awsrequest.AWSRequest("GET", url, headers=dict(headers))
            # Frozen anew each time: refreshable credentials are refreshed in time by botocore.
            frozen = credentials.get_frozen_credentials()
            botocore.auth.S3SigV4Auth(frozen, "s3", region).add_auth(request)
            return dict(request.headers.items())

        ca_file = self._ca_file or botocore.httpsession.get_cert_path(verify=True)
        return RangedReader(base, sign=sign, describe=self.describe(), ca_file=ca_file, retry=self._retry)

    def describe(self) -> str:
        """Endpoint and credentials in words; of the key only its end."""
        credentials = self._credentials
        source = _METHODS.get(credentials.method, credentials.method)
        key = credentials.access_key
        return f"{self.endpoint} with credentials from {source} (access key …{key[-4:]})"


class _translated:  # noqa: N801 - reads as a word in a with statement
    """Turns botocore's exceptions into this package's."""

    def __init__(self, source: S3Source, uri: str) -> None:
        self._source = source
        self._uri = uri

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, botocore.exceptions.ClientError | botocore.exceptions.BotoCoreError):
            raise _translate(error, self._uri, self._source) from None


def _translate(error: Exception, uri: str, source: S3Source) -> Exception:
    described = source.describe()
    if isinstance(error, botocore.exceptions.ClientError):
        return _refusal(error, uri, source.bucket, described)
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
    code = str(error.response.get("Error", {}).get("Code", ""))
    if code == "NoSuchBucket":
        return NotFoundError(
            f"{uri}: NoSuchBucket: there is no bucket {bucket!r} at {described}; "
            "must be a bucket that exists there",
            uri=uri,
        )
    if code in ("NoSuchKey", "404", "NotFound"):
        return NotFoundError(f"{uri}: {code}: no such object at {described}", uri=uri)
    if code in _DENIED:
        return AccessDeniedError(
            f"{uri}: {code} from {described}; must be allowed s3:ListBucket on bucket {bucket!r} and "
            "s3:GetObject on its objects",
            uri=uri,
        )
    return TransferError(f"{uri}: {error} from {described}", uri=uri)


def _sha256(checksum: str | None) -> str | None:
    """Hexadecimal form of S3's base64; None for the checksum of checksums of a multipart upload."""
    if checksum is None or "-" in checksum:
        return None
    try:
        digest = base64.b64decode(checksum, validate=True)
    except binascii.Error:
        return None
    return digest.hex() if len(digest) == 32 else None
