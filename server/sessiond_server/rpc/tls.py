"""TLS: the server's certificate and the authorities of client certificates, which can be renewed while it runs."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc


class TlsInvalid(Exception):
    """The files of TLS cannot be used. The text names the files and the fault, and quotes nothing of them."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of the TLS files."""

    certificate: Path
    """PEM: the server's certificate chain."""
    key: Path
    """PEM."""
    client_ca: Path | None = None
    """PEM: authorities whose certificates callers must present; None: callers need none."""

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.certificate, self.key, *((self.client_ca,) if self.client_ca else ()))

    def read(self) -> "TlsMaterial":
        """The content of the files, checked to belong together. Raises TlsInvalid; OSError if one cannot be read."""
        contents = [path.read_bytes() for path in self.paths]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            # The empty password prevents a prompt on the terminal for an encrypted key.
            context.load_cert_chain(self.certificate, self.key, password=b"")
        except (ssl.SSLError, ValueError) as error:
            raise TlsInvalid(
                f"{self.certificate} and {self.key}: both must be PEM, without a password, and belong together "
                f"({_fault(error)})"
            ) from None
        if self.client_ca is not None:
            try:
                context.load_verify_locations(self.client_ca)
            except (ssl.SSLError, ValueError) as error:
                raise TlsInvalid(f"{self.client_ca}: must be PEM certificates ({_fault(error)})") from None
        if contents != [path.read_bytes() for path in self.paths]:
            raise TlsInvalid(f"{', '.join(map(str, self.paths))}: changed while they were read")
        return TlsMaterial(contents[0], contents[1], contents[2] if self.client_ca else None)


class Context:
    """TLS of a port that Python serves, with the same certificates. New connections use the latest material."""

    def __init__(self, files: TlsFiles) -> None:
        """Raises what loading raises, if the files have changed since they were read."""
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.set_alpn_protocols(["http/1.1"])
        if files.client_ca is not None:
            self.context.verify_mode = ssl.CERT_REQUIRED
        self.use(files)

    def use(self, files: TlsFiles) -> None:
        """Uses the files, which were read before, for new connections."""
        self.context.load_cert_chain(files.certificate, files.key, password=b"")
        if files.client_ca is not None:
            self.context.load_verify_locations(files.client_ca)


def _fault(error: Exception) -> str:
    return (error.reason if isinstance(error, ssl.SSLError) else None) or type(error).__name__


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """Valid TLS material, as read by `TlsFiles.read`."""

    certificate: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None = None


class Certificates:
    """Credentials of a server. New connections use the latest material; open ones continue with theirs."""

    def __init__(self, material: TlsMaterial) -> None:
        self._next: Any = None
        self._mutual = material.client_ca is not None
        self.credentials = grpc.dynamic_ssl_server_credentials(
            _configuration(material), self._fetch, require_client_authentication=self._mutual
        )

    def use(self, material: TlsMaterial) -> None:
        """Uses the material for new connections. Whether callers need certificates cannot change."""
        assert (material.client_ca is not None) == self._mutual
        self._next = _configuration(material)

    def _fetch(self) -> Any:
        """grpc calls this before each handshake. None: nothing has changed since the last call."""
        configuration, self._next = self._next, None
        return configuration


def _configuration(material: TlsMaterial) -> Any:
    return grpc.ssl_server_certificate_configuration(
        [(material.key, material.certificate)], root_certificates=material.client_ca
    )
