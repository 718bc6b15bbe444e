"""Models in S3, and in any store that offers its interface.

boto3's own client lists and heads, so that endpoint, region, addressing style, redirects between regions and
credentials are exactly those of the AWS command line. The URL of its list request is then the base of the
ranged reads, which carry the weights' bytes and are signed with the same credentials.
"""

from __future__ import annotations

import concurrent.futures
import functools
import re
import ssl
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import boto3
import botocore.auth
import botocore.awsrequest
import botocore.config
import botocore.exceptions
import botocore.httpsession
import botocore.loaders
import botocore.session

from weights.errors import NoCredentialsError, NotFoundError, SourceError
from weights.manifest import FileEntry
from weights.sources import s3_checksums
from weights.sources.http_pool import is_loopback
from weights.sources.ranged_reader import RangedReader
from weights.sources.retry_policy import ReadRetryPolicy
from weights.sources.s3_errors import translated

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from weights.sources.address import S3Location
    from weights.sources.source import Arrived

_CONCURRENCY = 16
"""Metadata requests at a time."""
_NEIGHBOURS_SHOWN = 8
_SCOPE = re.compile(r"Credential=[^/]+/\d{8}/([^/]+)/")
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

    def __init__(self, location: S3Location, *, retry: ReadRetryPolicy | None = None) -> None:
        """Prepare a client; nothing is requested yet.

        Args:
            location: bucket and prefix.
            retry: attempts and time-outs.

        Raises:
            NoCredentialsError: the credentials chain ends without any.
            SourceError: the AWS configuration is not valid.
        """
        self._location = location
        self._retry = retry or ReadRetryPolicy()
        self._reader: RangedReader | None = None
        self._list_request: tuple[str, str] | None = None
        """URL and region of the last list request."""
        try:
            core = botocore.session.Session()
            core.register_component("data_loader", _service_data(core.get_config_variable("data_path")))
            session = boto3.session.Session(botocore_session=core)
            credentials = session.get_credentials()
            self._ca_file: str | None = core.get_config_variable("ca_bundle")
            self._check_ca_file()
            self._client = self._make_client(session)
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
        """The URL of the store."""
        return str(self._client.meta.endpoint_url)

    def list(self) -> tuple[FileEntry, ...]:
        """Every object below the prefix."""
        prefix = f"{self._location.prefix}/" if self._location.prefix else ""
        entries = []
        for item in self._objects(prefix):
            path = item["Key"][len(prefix) :]
            if path and not path.endswith("/"):  # not the marker of a folder
                entries.append(FileEntry(path, item["Size"], item["ETag"]))
        if not entries:
            raise NotFoundError(
                f"{self.uri}: no object there at {self.describe()}{self._neighbours()}", uri=self.uri
            )
        return tuple(entries)

    def declare_checksums(self, entries: Sequence[FileEntry]) -> tuple[FileEntry, ...]:
        """The entries with the checksums that the store declares, or why it declares none that helps."""

        def declare(entry: FileEntry) -> FileEntry:
            uri = f"{self.uri}/{entry.path}"
            with self._translated(uri):
                return s3_checksums.declare(self._client, self.bucket, self._key(entry.path), entry, uri=uri)

        if not entries:
            return ()
        with concurrent.futures.ThreadPoolExecutor(min(_CONCURRENCY, len(entries)), "weights-head") as pool:
            return tuple(pool.map(declare, entries))

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

    def describe(self) -> str:
        """Endpoint and credentials in words; of the access key only its end."""
        credentials = self._credentials
        source = _METHODS.get(credentials.method, credentials.method)
        key = credentials.access_key
        return f"{self.endpoint} with credentials from {source} (access key …{key[-4:]})"

    def _make_client(self, session: boto3.session.Session) -> S3Client:
        options: dict[str, Any] = {
            "connect_timeout": self._retry.connect_timeout,
            "read_timeout": self._retry.read_timeout,
            "retries": {"total_max_attempts": self._retry.connect_attempts, "mode": "standard"},
            "signature_version": "s3v4",
        }

        def client(**more: Any) -> S3Client:
            return session.client(
                "s3",
                region_name=session.region_name or "us-east-1",
                config=botocore.config.Config(**options, **more),
            )

        made = client()
        host = urllib.parse.urlsplit(made.meta.endpoint_url).hostname or ""
        # A proxy could not reach this machine's loopback address; botocore would use it all the same.
        return client(proxies={}) if urllib.request.getproxies() and is_loopback(host) else made

    def _check_ca_file(self) -> None:
        """Fail early where botocore and the standard library would not name the path."""
        if not self._ca_file:
            return
        try:
            ssl.create_default_context(cafile=self._ca_file)
        except (OSError, ssl.SSLError) as error:
            raise SourceError(
                f"{self.uri}: AWS_CA_BUNDLE = {self._ca_file}, cannot be read ({error.strerror or error}); "
                "must be a file of certificates in PEM form (or ca_bundle in the AWS configuration file)",
                uri=self.uri,
            ) from None

    def _translated(self, uri: str) -> AbstractContextManager[None]:
        return translated(uri, self.bucket, self.describe)

    def _key(self, path: str) -> str:
        return f"{self._location.prefix}/{path}" if self._location.prefix else path

    def _objects(self, prefix: str) -> Iterator[Any]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        with self._translated(self.uri):
            for page in pages:
                yield from page.get("Contents", ())

    def _neighbours(self) -> str:
        """What the bucket does hold, to make a typing mistake visible."""
        with self._translated(self.uri):
            page = self._client.list_objects_v2(Bucket=self.bucket, Delimiter="/", MaxKeys=_NEIGHBOURS_SHOWN)
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
            with self._translated(self.uri):
                self._client.list_objects_v2(Bucket=self.bucket, MaxKeys=1)
        assert self._list_request is not None
        url, region = self._list_request
        parts = urllib.parse.urlsplit(url)
        base = urllib.parse.urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))
        credentials = self._credentials

        def sign(url: str, headers: Mapping[str, str]) -> Mapping[str, str]:
            request = botocore.awsrequest.AWSRequest("GET", url, headers=dict(headers))
            # Frozen for each request: botocore refreshes temporary credentials in time.
            frozen = credentials.get_frozen_credentials()
            botocore.auth.S3SigV4Auth(frozen, "s3", region).add_auth(request)
            return dict(request.headers.items())

        ca_file = self._ca_file or botocore.httpsession.get_cert_path(verify=True)
        return RangedReader(base, sign=sign, describe=self.describe(), ca_file=ca_file, retry=self._retry)
