"""Certificates for tests of TLS."""

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest


class Identity(NamedTuple):
    """As PEM."""

    key: bytes
    certificate: bytes


def self_signed(folder: Path) -> Identity:
    """Key and self-signed certificate of sessiond.example; its files are left in the folder."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl makes the certificate")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=sessiond.example"
    usage = "keyUsage=critical,digitalSignature,keyCertSign"  # Python 3.13 accepts no authority without it
    name = ["-addext", "subjectAltName=DNS:sessiond.example", "-addext", usage]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([openssl, *command.split(), *name, *files], check=True, capture_output=True)
    return Identity(key.read_bytes(), certificate.read_bytes())


def authority(folder: Path) -> Identity:
    """One that `issued` takes certificates from."""
    folder.mkdir()
    return self_signed(folder)


def issued(by: Identity, folder: Path) -> Identity:
    """Key and certificate of sessiond.example, for servers and clients, signed by an authority."""
    folder.mkdir()
    key, request, certificate = folder / "key.pem", folder / "request.pem", folder / "certificate.pem"
    (folder / "ca.key").write_bytes(by.key)
    (folder / "ca.pem").write_bytes(by.certificate)
    extensions = folder / "extensions"
    extensions.write_text(
        "subjectAltName=DNS:sessiond.example\nextendedKeyUsage=serverAuth,clientAuth\n"
        "keyUsage=critical,digitalSignature\nauthorityKeyIdentifier=keyid\n"
    )
    name = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=sessiond.example"]
    signer = ["-CA", str(folder / "ca.pem"), "-CAkey", str(folder / "ca.key"), "-CAcreateserial", "-days", "2"]
    for command in (
        ["req", *name, "-keyout", str(key), "-out", str(request)],
        ["x509", "-req", "-in", str(request), *signer, "-extfile", str(extensions), "-out", str(certificate)],
    ):
        subprocess.run(["openssl", *command], check=True, capture_output=True)
    return Identity(key.read_bytes(), certificate.read_bytes())
