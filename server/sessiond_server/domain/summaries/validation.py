"""Validates summaries by the rules that their proto comments state. See domain/validation.py."""

from typing import Final

from sessiond.v1.summary_pb2 import Summary
from sessiond_server.domain import text, validation
from sessiond_server.domain.validation import FieldViolations

TEXT_CHARACTERS: Final = 65_536


def new_summary(found: FieldViolations, path: str, summary: Summary) -> None:
    """Checks a summary to add, but for what depends on the session."""
    if summary.through_seq < 1:
        found.add(f"{path}.through_seq", "must be at least 1")
    if summary.text:
        found.add(f"{path}.text", text.text(summary.text, TEXT_CHARACTERS))
    else:
        found.add(f"{path}.text", "is required")
    found.add(f"{path}.model", text.line(summary.model, 0, text.ID_BYTES))
    found.add(f"{path}.author", text.line(summary.author, 0, text.ID_BYTES))
    if summary.HasField("usage"):
        validation.usage(found, f"{path}.usage", summary.usage)
    if not 0 <= summary.token_count <= validation.MOST_INTEGER:
        found.add(f"{path}.token_count", "must be 0 to 2^53 - 1")
