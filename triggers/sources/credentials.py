"""Credentials of a broker: from a mounted Secret, else from the environment; they are never shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from ssl import SSLContext, SSLError, create_default_context
from typing import Final

from triggers.sources.base import BrokerMisconfiguredError

SECRETS_VARIABLE: Final = "PILOTLIGHT_TRIGGER_SECRETS"
"""Folder with one folder for each Secret that a Trigger names, and in it a file for each key."""
SECRETS_FOLDER: Final = "/etc/pilotlight/trigger-secrets"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a broker's client needs to be let in.

    Attributes:
        url: the broker's address, where the Trigger has none.
        ca_file: certificates that sign the broker's. None: those of the system.
        creds_file: NATS' file with a JWT and its key.
    """

    url: str | None = field(default=None, repr=False)
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    creds_file: str | None = None

    def ssl_context(self) -> SSLContext:
        """TLS that checks the broker's name and certificate."""
        try:
            context = create_default_context(cafile=self.ca_file)
            if self.cert_file is not None:
                context.load_cert_chain(self.cert_file, self.key_file)
        except (OSError, SSLError) as error:
            raise BrokerMisconfiguredError(f"the TLS files cannot be read: {error}") from None
        return context


def read_credentials(environment: Mapping[str, str], prefix: str, secret: str | None) -> Credentials:
    """Those of a Secret's folder if one is named, else of the variables `PREFIX_USERNAME` and so on.

    Raises:
        BrokerMisconfiguredError: the Secret's folder or a file that a variable names is missing.
    """
    if secret is not None:
        return _from_folder(Path(environment.get(SECRETS_VARIABLE) or SECRETS_FOLDER) / secret)
    value = {name: environment.get(f"{prefix}_{name}") or None for name in _VARIABLES}
    password_file = value["PASSWORD_FILE"]
    if password_file is not None:
        try:
            value["PASSWORD"] = Path(password_file).read_text().strip()
        except OSError as error:
            raise BrokerMisconfiguredError(f"{prefix}_PASSWORD_FILE: {error}") from None
    return Credentials(
        url=value["URL"],
        username=value["USERNAME"],
        password=value["PASSWORD"],
        token=value["TOKEN"],
        ca_file=value["CA_FILE"],
        cert_file=value["CERT_FILE"],
        key_file=value["KEY_FILE"],
        creds_file=value["CREDS_FILE"],
    )


_VARIABLES: Final = (
    "URL", "USERNAME", "PASSWORD", "PASSWORD_FILE", "TOKEN", "CA_FILE", "CERT_FILE", "KEY_FILE", "CREDS_FILE",
)  # fmt: skip


def _from_folder(folder: Path) -> Credentials:
    if not folder.is_dir():
        raise BrokerMisconfiguredError(
            f"the Secret's folder {folder} is missing: mount the Secret there, or set {SECRETS_VARIABLE}"
        )

    def text(key: str) -> str | None:
        path = folder / key
        return path.read_text().strip() if path.is_file() else None

    def file(key: str) -> str | None:
        path = folder / key
        return str(path) if path.is_file() else None

    return Credentials(
        url=text("url"),
        username=text("username"),
        password=text("password"),
        token=text("token"),
        ca_file=file("ca.crt"),
        cert_file=file("tls.crt"),
        key_file=file("tls.key"),
        creds_file=file("nats.creds"),
    )


def broker_url(given: str | None, credentials: Credentials, prefix: str) -> str:
    """The address to connect to: the Trigger's, else the Secret's or the environment's.

    Raises:
        BrokerMisconfiguredError: there is none.
    """
    url = given or credentials.url
    if url is None:
        raise BrokerMisconfiguredError(
            f"the broker's address is missing: set url, or {prefix}_URL, or the Secret's url"
        )
    return url
