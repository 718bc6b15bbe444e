"""Mutual TLS between two processes that trust one authority: contexts of both ends, kept up to date.

Each end has a folder with `ca.crt`, `tls.crt` and `tls.key`, as a Kubernetes Secret of a certificate has.
Certificates are renewed by replacing these files; connections that are open stay as they are.
"""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import Self

AUTHORITY = "ca.crt"
CERTIFICATE = "tls.crt"
KEY = "tls.key"

log = logging.getLogger(__name__)


class MutualTls:
    """The context of one end, made of the files of a folder.

    Args:
        folder: with the authority, the certificate and its key.
        context: of the end; loaded with the files.
    """

    def __init__(self, folder: Path, context: ssl.SSLContext) -> None:
        self._folder = folder
        self.context = context
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        self._loaded = self._stamp()
        self._load()

    @classmethod
    def server(cls, folder: Path) -> Self:
        """The end that is connected to; who connects must have a certificate of the authority.

        Raises:
            OSError: a file is missing or is no certificate (`ssl.SSLError` is one).
        """
        return cls(folder, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))

    @classmethod
    def client(cls, folder: Path) -> Self:
        """The end that connects. It checks the authority and the name that it expects.

        Raises:
            OSError: as `server`.
        """
        return cls(folder, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))

    def refresh(self) -> bool:
        """Take over files that were replaced; whether there were any. Old ones stay until they are whole."""
        stamp = self._stamp()
        if stamp == self._loaded:
            return False
        try:
            self._load()
        except OSError as error:  # replaced file by file: the next look finds all of them
            log.debug("certificates in %s cannot be read: %s", self._folder, error)
            return False
        self._loaded = stamp
        return True

    def _load(self) -> None:
        self.context.load_cert_chain(self._folder / CERTIFICATE, self._folder / KEY)
        self.context.load_verify_locations(self._folder / AUTHORITY)

    def _stamp(self) -> tuple[int, ...]:
        times = []
        for name in (AUTHORITY, CERTIFICATE, KEY):
            try:
                times.append((self._folder / name).stat().st_mtime_ns)
            except OSError:
                times.append(0)
        return tuple(times)
