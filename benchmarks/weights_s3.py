"""The S3 endpoint of `benchmarks/weights.py`: nginx on the loopback, which serves a made model with Range."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

BUCKET, PREFIX = "bench", "model"


def uri() -> str:
    """The model's address."""
    return f"s3://{BUCKET}/{PREFIX}"


def model_folder() -> Path:
    """The checkpoint on the disk."""
    return Path(os.environ["BENCH_FOLDER"]) / "root" / BUCKET / PREFIX


def shards() -> list[Path]:
    """Its weights files."""
    return sorted(model_folder().glob("*.safetensors"))


def read(path: Path) -> None:
    """Read a file to its end, so that the page cache has it."""
    with path.open("rb") as file:
        while file.read(16 << 20):
            pass


@contextlib.contextmanager
def served(folder: Path, size: int, *, tls: bool) -> Iterator[dict[str, str]]:
    """Make the model if need be, serve it as a bucket, and yield the environment that points at it."""
    from weights.make_model import make_model  # noqa: PLC0415 - children need only the addresses

    bucket = folder / "root" / BUCKET
    model = bucket / PREFIX
    if not model.exists():
        make_model(model, size=size)
    nginx = shutil.which("nginx") or "/usr/sbin/nginx"
    if not Path(nginx).exists():
        raise SystemExit("nginx not found; install Debian's nginx-light")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    configuration = folder / "nginx.conf"
    # Started by root, nginx would run its workers as a user that may not read a temporary folder.
    user = "user root;" if os.geteuid() == 0 else ""
    certificate, key = _make_certificate(folder)
    secured = f"ssl; ssl_certificate {certificate}; ssl_certificate_key {key}" if tls else ""
    configuration.write_text(
        f"""{user} daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.log; worker_processes 2;
        events {{ worker_connections 512; }}
        http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;
          default_type application/octet-stream;
          client_body_temp_path {folder}/tmp1; proxy_temp_path {folder}/tmp2; fastcgi_temp_path {folder}/tmp3;
          uwsgi_temp_path {folder}/tmp4; scgi_temp_path {folder}/tmp5;
          server {{ listen 127.0.0.1:{port} {secured}; root {folder}/root;
            location = /{BUCKET} {{ try_files /listing.xml =404; }}
            location = /{BUCKET}/ {{ try_files /listing.xml =404; }} }} }}"""
    )
    endpoint = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    trusted = ssl.create_default_context(cafile=certificate)
    server = subprocess.Popen([nginx, "-c", str(configuration), "-e", str(folder / "nginx.log")])
    try:
        _wait(endpoint, f"/{BUCKET}/{PREFIX}/config.json", trusted)
        (folder / "root" / "listing.xml").write_text(_listing(endpoint, model, trusted))
        for path in sorted(model.glob("*.safetensors")):
            read(path)
        yield {
            "AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench",
            "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
            "RUNAI_STREAMER_S3_ENDPOINT": endpoint, "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
            "RUNAI_STREAMER_LOG_LEVEL": "ERROR", "BENCH_FOLDER": str(folder),
            "AWS_CA_BUNDLE": str(certificate),
        }  # fmt: skip
    finally:
        server.terminate()
        server.wait()


def _make_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 that signs itself, and its key."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names,
         "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


def _listing(endpoint: str, model: Path, trusted: ssl.SSLContext) -> str:
    """The response of ListObjectsV2; the ETags are nginx's own."""
    items = []
    for path in sorted(model.iterdir()):
        request = urllib.request.Request(f"{endpoint}/{BUCKET}/{PREFIX}/{path.name}", method="HEAD")
        with urllib.request.urlopen(request, context=trusted) as answer:
            etag = answer.headers["ETag"].replace('"', "&quot;")
        items.append(
            f"<Contents><Key>{PREFIX}/{path.name}</Key><Size>{path.stat().st_size}</Size><ETag>{etag}</ETag>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
        )
    return (
        '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>{BUCKET}</Name><IsTruncated>false</IsTruncated>{''.join(items)}</ListBucketResult>"
    )


def _wait(endpoint: str, path: str, trusted: ssl.SSLContext) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            urllib.request.urlopen(endpoint + path, timeout=1, context=trusted).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
