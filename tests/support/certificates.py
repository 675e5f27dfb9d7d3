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
    name = ["-addext", "subjectAltName=DNS:sessiond.example"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([openssl, *command.split(), *name, *files], check=True, capture_output=True)
    return Identity(key.read_bytes(), certificate.read_bytes())
