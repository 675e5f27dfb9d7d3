"""The tables of the schema, and how the service recognises them."""

from typing import Final

TABLES: Final = (
    "attachments", "blob_rows", "blobs", "document_requests", "documents", "events", "feed_order", "message_marks",
    "move_marks", "pieces", "placement", "releases", "requests", "run_figures", "runs", "service_keys",
    "session_heads", "sessions", "tenant_homes", "tenant_moves", "tool_calls", "uploads",
)  # fmt: skip
"""All tables except schema_versions."""

UNMOVED: Final = frozenset({"tenant_homes", "tenant_moves"})
"""Tables with a tenant_id whose rows do not go with a tenant that moves to another database."""

MARKS: Final = {
    "schema_versions": {"version", "name", "apply_time"},
    "events": {"tenant_id", "session_id", "seq"},
    "session_heads": {"tenant_id", "session_id", "version"},
    "sessions": {"tenant_id", "session_id", "status"},
}
"""Columns by which the service recognises its own tables."""
