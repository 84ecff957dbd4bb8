"""TLS of an endpoint, by files."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from rayft.errors import ConfigError


@dataclass(frozen=True)
class TlsFiles:
    """PEM files.

    Attributes:
        cert: Certificate with its chain.
        key: Private key, without a passphrase.
        client_ca: Whoever shows no certificate of it is refused; None asks for none.
    """

    cert: Path
    key: Path
    client_ca: Path | None = None


def http_context(files: TlsFiles) -> ssl.SSLContext:
    """Return the context of HTTPS.

    Raises:
        ConfigError: A file cannot be read, or does not fit.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        # Without a function that knows none, OpenSSL would ask the terminal for a passphrase.
        context.load_cert_chain(files.cert, files.key, password=lambda: b"")
        if files.client_ca is not None:
            context.load_verify_locations(files.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except OSError as error:
        names = ", ".join(str(path) for path in (files.cert, files.key, files.client_ca) if path is not None)
        reason = error.reason if isinstance(error, ssl.SSLError) and error.reason else error.strerror or str(error)
        raise ConfigError(
            f"The TLS files {names} cannot be used: {reason}.", "Give a PEM certificate and its key, unencrypted."
        ) from None
    return context


def read_files(files: TlsFiles) -> tuple[bytes, bytes, bytes | None]:
    """Return key, certificate and client CA as bytes, for gRPC.

    Raises:
        ConfigError: As ``http_context``.
    """
    http_context(files)
    client_ca = None if files.client_ca is None else files.client_ca.read_bytes()
    return files.key.read_bytes(), files.cert.read_bytes(), client_ca
