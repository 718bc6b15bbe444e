"""An S3 endpoint on this machine for the demo."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import boto3

from pilotlight import aws_server

_WHAT = "the demo's S3 endpoint"


@dataclass(frozen=True)
class S3Endpoint:
    """A running endpoint and the environment that reaches it through the usual AWS chain."""

    url: str
    env: Mapping[str, str]


def check_installed() -> None:
    """Raises AwsServerError: moto is not installed."""
    aws_server.check_installed(_WHAT)


@asynccontextmanager
async def serving(log: Path) -> AsyncIterator[S3Endpoint]:
    """Run the endpoint for as long as the context lasts.

    Raises:
        AwsServerError: moto is not installed, or does not come up.
    """
    async with aws_server.serving(log, _WHAT) as url:
        yield S3Endpoint(
            url,
            {
                "AWS_ENDPOINT_URL": url,
                "AWS_ACCESS_KEY_ID": "demo",
                "AWS_SECRET_ACCESS_KEY": "demo",
                "AWS_REGION": "us-east-1",
                "AWS_DEFAULT_REGION": "us-east-1",
            },
        )


def upload(
    endpoint: S3Endpoint, folder: Path, bucket: str, prefix: str, on_file: Callable[[str], None]
) -> int:
    """Put every file of `folder` into the bucket, which is made; the bytes written."""
    s3 = boto3.client(
        "s3",
        endpoint_url=endpoint.url,
        region_name=endpoint.env["AWS_REGION"],
        aws_access_key_id=endpoint.env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=endpoint.env["AWS_SECRET_ACCESS_KEY"],
    )
    s3.create_bucket(Bucket=bucket)
    total = 0
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        key = f"{prefix}/{path.relative_to(folder).as_posix()}"
        on_file(path.name)
        s3.upload_file(str(path), bucket, key)
        total += path.stat().st_size
    return total
