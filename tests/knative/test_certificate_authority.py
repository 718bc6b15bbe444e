"""Certificates for replicas and for who connects to them: issued, renewed, replaced when they are not ours."""

import stat
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from knative.local.certificate_authority import CertificateAuthority
from transport.mutual_tls import MutualTls

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def authority(tmp_path):
    made = CertificateAuthority(tmp_path / "tls")
    assert made.renew(NOW)
    return made


def serial(folder):
    return x509.load_pem_x509_certificate((folder / "tls.crt").read_bytes()).serial_number


def authorities(folder):
    return x509.load_pem_x509_certificates((folder / "ca.crt").read_bytes())


def test_what_is_valid_stays(authority):
    before = serial(authority.replicas), serial(authority.clients)
    assert not authority.renew(NOW + timedelta(hours=15))
    assert (serial(authority.replicas), serial(authority.clients)) == before


def test_certificates_are_replaced_after_two_thirds_of_their_life(authority):
    before = serial(authority.replicas)
    assert authority.renew(NOW + timedelta(hours=17))
    assert serial(authority.replicas) != before
    assert len(authorities(authority.replicas)) == 1


def test_a_new_authority_is_trusted_beside_the_old_one_until_that_ends(authority):
    (old,) = authorities(authority.clients)
    assert authority.renew(NOW + timedelta(days=250))
    new, kept = authorities(authority.clients)
    assert kept == old
    certificate = x509.load_pem_x509_certificate((authority.replicas / "tls.crt").read_bytes())
    certificate.verify_directly_issued_by(new)
    assert authority.renew(NOW + timedelta(days=366))
    assert authorities(authority.clients) == [new]


@pytest.mark.parametrize("broken", ["ca.key", "ca.crt", "replicas/tls.crt", "replicas/tls.key"])
def test_what_is_broken_is_made_anew(tmp_path, authority, broken):
    (tmp_path / "tls" / broken).write_text("not a certificate")
    authority.renew(NOW)
    if broken == "replicas/tls.key":
        authority.renew(NOW + timedelta(hours=17))  # the key is only read by the replicas
    MutualTls.server(authority.replicas)
    MutualTls.client(authority.clients)


def test_keys_are_for_their_owner_alone(tmp_path, authority):
    for path in (tmp_path / "tls").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_context_takes_new_files_once_they_are_whole(authority):
    server = MutualTls.server(authority.replicas)
    assert not server.refresh()
    key = (authority.replicas / "tls.key").read_bytes()
    authority.renew(NOW + timedelta(hours=17))
    fresh = (authority.replicas / "tls.key").read_bytes()
    (authority.replicas / "tls.key").write_bytes(key)
    assert not server.refresh()
    (authority.replicas / "tls.key").write_bytes(fresh)
    assert server.refresh()
    assert not server.refresh()
