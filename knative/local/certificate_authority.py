"""Certificates for what passes between the activator and the replicas of this machine.

An authority that only this platform has signs a certificate for replicas and one for who connects to them.
Both live for a day and are replaced after two thirds of it. The authority lives for a year; when it is
replaced both ends trust the old one too, until it ends.
"""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from transport.mutual_tls import AUTHORITY, CERTIFICATE, KEY

_REPLICA_NAME = "replica.pilotlight.local"
_CLIENT_NAME = "activator.pilotlight.local"
_HOSTS = ("127.0.0.1", "::1")
"""Where replicas listen: their addresses, which clients check, stand in their certificate."""
TLS_FOLDER = "tls"
"""In the platform's state folder."""
_CLIENTS = "clients"
_SIGNING_KEY = "ca.key"
_CLOCK_SKEW = timedelta(minutes=5)
_AUTHORITIES_KEPT = 2


def clients_folder(state_dir: Path) -> Path:
    """Where a platform with this state folder keeps the certificate for connections to its replicas."""
    return state_dir / TLS_FOLDER / _CLIENTS


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long certificates are valid; each is replaced after two thirds of it."""

    authority: timedelta = timedelta(days=365)
    certificate: timedelta = timedelta(days=1)


class _Signer(NamedTuple):
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


class CertificateAuthority:
    """The authority in a folder, and the certificates that it has issued.

    Args:
        folder: of its own; made for its owner alone.
        lifetimes: of what it issues.
    """

    def __init__(self, folder: Path, lifetimes: Lifetimes | None = None) -> None:
        self._folder = folder
        self._lifetimes = lifetimes or Lifetimes()

    @property
    def replicas(self) -> Path:
        """The folder of the replicas' certificate."""
        return self._folder / "replicas"

    @property
    def clients(self) -> Path:
        """The folder of the certificate of who connects to replicas: the activator, and who observes them."""
        return self._folder / _CLIENTS

    def renew(self, now: datetime) -> bool:
        """Issue what is missing, foreign or due; whether there was anything.

        Raises:
            OSError: the folder cannot be written.
        """
        for folder in (self._folder, self.replicas, self.clients):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        trusted, signer, issued = self._authority(now)
        for folder, usage, name in (
            (self.replicas, ExtendedKeyUsageOID.SERVER_AUTH, _REPLICA_NAME),
            (self.clients, ExtendedKeyUsageOID.CLIENT_AUTH, _CLIENT_NAME),
        ):
            # Trust goes ahead of certificates, or one end would not know the other's new one.
            if _bytes(folder / AUTHORITY) != trusted:
                _write(folder / AUTHORITY, trusted)
                issued = True
            present = _certificates(folder / CERTIFICATE)
            if not present or _is_due(present[0], now) or not _is_signed(present[0], signer.certificate):
                self._issue(folder, signer, usage, name, now)
                issued = True
        return issued

    def _authority(self, now: datetime) -> tuple[bytes, _Signer, bool]:
        """All authorities that are trusted, the newest first, which signs; and whether it is new."""
        path = self._folder / AUTHORITY
        known = [found for found in _certificates(path) if found.not_valid_after_utc > now]
        key = _private_key(self._folder / _SIGNING_KEY)
        if known and key is not None and not _is_due(known[0], now) and _belongs(key, known[0]):
            return _pem(known), _Signer(known[0], key), False
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"pilotlight {now:%Y-%m-%dT%H:%M:%SZ}")])
        made = (
            _builder(name, name, key.public_key(), now, self._lifetimes.authority)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_KEY_USAGE_CA, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        trusted = [made, *known][:_AUTHORITIES_KEPT]
        _write(self._folder / _SIGNING_KEY, _key_pem(key))
        _write(path, _pem(trusted))
        return _pem(trusted), _Signer(made, key), True

    def _issue(
        self, folder: Path, signer: _Signer, usage: ObjectIdentifier, name: str, now: datetime
    ) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names: list[x509.GeneralName] = [x509.DNSName(name)]
        if usage == ExtendedKeyUsageOID.SERVER_AUTH:
            names += [x509.IPAddress(ipaddress.ip_address(host)) for host in _HOSTS]
        public = signer.key.public_key()
        made = (
            _builder(subject, signer.certificate.subject, key.public_key(), now, self._lifetimes.certificate)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
            .sign(signer.key, hashes.SHA256())
        )
        _write(folder / KEY, _key_pem(key))
        _write(folder / CERTIFICATE, _pem([made]))


_KEY_USAGE_CA = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime,
    lifetime: timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + lifetime)
    )


def _is_due(certificate: x509.Certificate, now: datetime) -> bool:
    begin = certificate.not_valid_before_utc
    return now >= begin + (certificate.not_valid_after_utc - begin) * 2 / 3


def _is_signed(certificate: x509.Certificate, by: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(by)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _belongs(key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> bool:
    return key.public_key() == certificate.public_key()


def _private_key(path: Path) -> ec.EllipticCurvePrivateKey | None:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError):
        return None
    return key if isinstance(key, ec.EllipticCurvePrivateKey) else None


def _certificates(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError):
        return []


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _pem(certificates: list[x509.Certificate]) -> bytes:
    return b"".join(found.public_bytes(serialization.Encoding.PEM) for found in certificates)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all, for the owner alone."""
    fresh = path.with_name(f".{path.name}.new")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(data)
    fresh.replace(path)
