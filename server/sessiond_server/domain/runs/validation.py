"""Validates runs by the rules that their proto comments state. See domain/validation.py."""

from typing import Final

from google.protobuf.duration_pb2 import Duration

from sessiond.v1.run_pb2 import Failure, Run
from sessiond_server.domain import text, validation
from sessiond_server.domain.validation import FieldViolations

RUN_METADATA_BYTES: Final = 16 * validation.KIB
FAILURE_CHARACTERS: Final = 4096
LEASE_SECONDS: Final = (5, 3600)


def lease(found: FieldViolations, path: str, value: Duration) -> None:
    """Checks a duration of 5 seconds to 1 hour."""
    least, most = LEASE_SECONDS
    valid = 0 <= value.nanos <= 999_999_999
    if not valid or not least <= value.seconds <= most or (value.seconds == most and value.nanos > 0):
        found.add(path, "must be 5 seconds to 1 hour")


def run(found: FieldViolations, path: str, value: Run) -> None:
    """Checks the fields that a client sets on a run, in BeginRun or in CreateSession. `run_id` may be empty."""
    if value.run_id:
        found.add(f"{path}.run_id", text.identifier(value.run_id))
    found.add(f"{path}.agent_id", text.optional_identifier(value.agent_id))
    found.add(f"{path}.model", text.line(value.model, 0, 128))
    if value.HasField("metadata"):
        validation.struct(found, f"{path}.metadata", value.metadata, RUN_METADATA_BYTES)


def failure(found: FieldViolations, path: str, value: Failure) -> None:
    found.add(f"{path}.code", text.line(value.code, 0, 128))
    found.add(f"{path}.message", text.text(value.message, FAILURE_CHARACTERS))
