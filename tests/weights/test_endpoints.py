"""Endpoints that users have: TLS with a private authority, unusual keys, whole buckets, equal names."""

import datetime as dt
import ipaddress
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import weights
from tests.weights.conftest import QUICK, digests_of
from tests.weights.faults import NOTHING, Fault, fault_proxy
from tests.weights.s3 import environment_for
from weights.loading.model import open_model
from weights.sources.http_pool import is_loopback
from weights.sources.tls import TlsConnection


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate of our own for 127.0.0.1; returns the files of certificate and key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    (folder / "cert.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture
def tls_endpoint(s3, parted_uri, certificate, monkeypatch):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with fault_proxy(s3.endpoint, tls=context) as proxy:
        for name, value in environment_for(proxy.endpoint).items():
            monkeypatch.setenv(name, value)
        yield proxy


def test_tls_with_the_authority_that_aws_ca_bundle_names(
    tls_endpoint, certificate, parted, parted_uri, monkeypatch
):
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate[0]))
    with open_model(parted_uri, retry=QUICK) as model:
        assert digests_of(model) == parted[1]
    assert tls_endpoint.bulk


@pytest.mark.parametrize("ending", ["reset", "close", "stall"])
def test_bodies_that_break_within_tls_are_resumed(  # noqa: PLR0917 - fixtures
    tls_endpoint, certificate, parted, parted_uri, monkeypatch, ending
):
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate[0]))
    tls_endpoint.decide = lambda request: (
        Fault(after=1_500_000, ending=ending) if request.is_bulk and request.number % 3 == 0 else NOTHING
    )
    with open_model(parted_uri, retry=QUICK, concurrency=8) as model:
        assert digests_of(model) == parted[1]


def test_a_certificate_of_another_host_is_refused(tls_endpoint, certificate):
    port = int(tls_endpoint.endpoint.rsplit(":", 1)[1])
    context = ssl.create_default_context(cafile=str(certificate[0]))
    connection = TlsConnection("127.0.0.1", port, timeout=5, context=context, server_hostname="other.example")
    with pytest.raises(ssl.SSLCertVerificationError, match=r"other\.example"):
        connection.connect()
    assert connection.sock is None


def test_a_response_outlives_its_closed_connection(tls_endpoint, certificate):
    """As `http.client` closes a connection before the body is read, where the server wants it closed."""
    port = int(tls_endpoint.endpoint.rsplit(":", 1)[1])
    context = ssl.create_default_context(cafile=str(certificate[0]))
    connection = TlsConnection("127.0.0.1", port, timeout=5, context=context, server_hostname="127.0.0.1")
    connection.connect()
    tls = connection.sock
    file = tls.makefile("rb")
    tls.close()
    tls.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert file.readline().startswith(b"HTTP/1.1 ")
    file.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        tls.sendall(b"more")


def test_tls_with_an_unknown_authority_is_refused(tls_endpoint, parted_uri, tmp_path):
    with pytest.raises(weights.UnreachableError, match="certificate"):
        weights.pull_blocking(parted_uri, cache_dir=tmp_path, retry=QUICK)


@pytest.mark.parametrize(
    ("content", "words"), [(None, "No such file or directory"), ("no certificate\n", "NO_CERTIFICATE")]
)
@pytest.mark.usefixtures("aws")
def test_a_wrong_aws_ca_bundle_is_named(parted_uri, tmp_path, monkeypatch, content, words):
    if content:
        (tmp_path / "ca.pem").write_text(content)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    with pytest.raises(weights.SourceError, match=rf"AWS_CA_BUNDLE = .*/ca\.pem, cannot be read \(.*{words}"):
        weights.pull_blocking(parted_uri, cache_dir=tmp_path, retry=QUICK)


def test_a_proxy_is_not_asked_for_what_is_on_this_machine(aws, made_model, tmp_path, monkeypatch):
    uri = aws.upload(made_model.path, "behind-no-proxy", "m")
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert (
        weights.pull_blocking(uri, cache_dir=tmp_path, retry=QUICK).manifest.parameters
        == made_model.parameters
    )


def test_elsewhere_the_proxy_is_used(aws, tmp_path, monkeypatch):
    """The fault proxy answers for the store, to requests that name the store by its whole URL."""
    with fault_proxy(aws.endpoint) as proxy:
        monkeypatch.setenv("http_proxy", proxy.endpoint)
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store.example")
        with pytest.raises(weights.NotFoundError):
            weights.pull_blocking("s3://not-there-at-all/m", cache_dir=tmp_path, retry=QUICK)
        assert proxy.requests


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("localhost", True), ("a.localhost", True), ("127.0.0.1", True), ("127.8.8.8", True), ("::1", True),
     ("[::1]", True), ("10.0.0.1", False), ("localhost.example", False), ("s3.amazonaws.com", False)],
)  # fmt: skip
def test_which_hosts_are_this_machine(host, loopback):
    assert is_loopback(host) == loopback


def test_keys_with_odd_characters_are_read(aws, made_model, tmp_path):
    uri = aws.upload(made_model.path, "odd-keys", "models/a b+c/ü=1&2#3")
    pulled = weights.pull_blocking(uri, cache_dir=tmp_path)
    assert (pulled.path / "config.json").read_bytes() == (made_model.path / "config.json").read_bytes()
    assert pulled.manifest.parameters == made_model.parameters


def test_a_whole_bucket_is_a_model_too(aws, made_model, tmp_path):
    client = aws.client()
    client.create_bucket(Bucket="whole-bucket")
    for path in made_model.path.iterdir():
        client.put_object(Bucket="whole-bucket", Key=path.name, Body=path.read_bytes())
    assert (
        weights.pull_blocking("s3://whole-bucket", cache_dir=tmp_path).manifest.parameters
        == made_model.parameters
    )


def test_two_endpoints_with_the_same_names_are_kept_apart(s3, made_model, parted, tmp_path, monkeypatch):
    s3.upload(made_model.path, "same-name", "m")
    with fault_proxy(s3.endpoint) as proxy:
        for endpoint in (s3.endpoint, proxy.endpoint):
            for name, value in environment_for(endpoint).items():
                monkeypatch.setenv(name, value)
            pulled = weights.pull_blocking("s3://same-name/m", cache_dir=tmp_path)
            assert not pulled.from_cache
            assert weights.pull_blocking("s3://same-name/m", cache_dir=tmp_path).from_cache


def test_the_secret_is_in_no_message(aws, tmp_path):
    with pytest.raises(weights.NotFoundError) as caught:
        weights.pull_blocking("s3://not-there-at-all/m", cache_dir=tmp_path)
    assert "pilotlight-secret" not in str(caught.value)
    assert "AKIA" not in str(caught.value)
