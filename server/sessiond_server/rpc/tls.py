"""What the server shows to those who connect, and whom it lets connect: certificates, renewed while it runs."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc


class TlsInvalid(Exception):
    """The files of TLS cannot be used. The text names the files and the fault, and quotes nothing of them."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where the material lies."""

    certificate: Path
    """PEM: the server's certificate, and those that lead from it to one that clients trust."""
    key: Path
    """PEM."""
    client_ca: Path | None = None
    """PEM: whose certificates callers must show; None: callers need none."""

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.certificate, self.key, *((self.client_ca,) if self.client_ca else ()))

    def read(self) -> "TlsMaterial":
        """What the files hold, which belongs together. Raises TlsInvalid; OSError when one cannot be read."""
        contents = [path.read_bytes() for path in self.paths]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            # An empty password: else a key that has one would make it ask on the terminal.
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


def _fault(error: Exception) -> str:
    return (error.reason if isinstance(error, ssl.SSLError) else None) or type(error).__name__


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """What `TlsFiles.read` found valid."""

    certificate: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None = None


class Certificates:
    """Credentials of a server whose connections begin with what was given last. Those that are open go on."""

    def __init__(self, material: TlsMaterial) -> None:
        self._next: Any = None
        self._mutual = material.client_ca is not None
        self.credentials = grpc.dynamic_ssl_server_credentials(
            _configuration(material), self._fetch, require_client_authentication=self._mutual
        )

    def use(self, material: TlsMaterial) -> None:
        """For connections that begin from now on. Whether callers need certificates does not change."""
        assert (material.client_ca is not None) == self._mutual
        self._next = _configuration(material)

    def _fetch(self) -> Any:
        """grpc asks before each handshake; None: nothing has changed since."""
        configuration, self._next = self._next, None
        return configuration


def _configuration(material: TlsMaterial) -> Any:
    return grpc.ssl_server_certificate_configuration(
        [(material.key, material.certificate)], root_certificates=material.client_ca
    )
