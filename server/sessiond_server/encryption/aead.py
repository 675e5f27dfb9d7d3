"""AES-256-GCM. The only module that imports `cryptography`: it is imported once something is to be encrypted, because
the package is optional, and takes time to import."""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = ["AESGCM", "InvalidTag"]
