"""The chain of digests over the records of an export; see ExportRecord.digest."""

import hashlib
from typing import Final

from sessiond.v1.export_service_pb2 import ExportRecord

BYTES: Final = 8


def sign(record: ExportRecord, before: bytes) -> bytes:
    """Sets the record's digest, given that of the record before it (b"" for the first), and returns it."""
    record.digest = digest(record, before)
    return record.digest


def digest(record: ExportRecord, before: bytes) -> bytes:
    """What the record's digest must be. Whatever order and form its fields came in, they are serialised in one way.
    Takes the record's own digest away."""
    record.ClearField("digest")
    return hashlib.sha256(before + record.SerializeToString(deterministic=True)).digest()[:BYTES]
