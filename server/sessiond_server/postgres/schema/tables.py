"""The tables of the schema, and how the service recognises them."""

from typing import Final

TABLES: Final = (
    "attachments", "blob_rows", "blobs", "document_requests", "documents", "encryption_state", "erasure_sessions",
    "erasures", "events", "feed_order", "hidings", "import_events", "import_files", "import_work", "imports",
    "legal_holds", "message_marks",
    "move_marks", "pieces", "placement", "releases", "requests", "retention_policies", "run_figures", "runs",
    "search_buckets", "search_entries", "search_feeds", "search_lease", "search_sessions", "service_keys",
    "session_forks", "session_heads", "session_segments", "sessions", "spreads", "summary_feeds", "summary_work",
    "templates", "tenant_homes", "tenant_keys", "tenant_moves", "tool_calls", "uploads", "usage_counters",
    "usage_feeds", "usage_lease", "usage_remains",
)  # fmt: skip
"""All tables except schema_versions."""

UNMOVED: Final = frozenset({"search_feeds", "tenant_homes", "tenant_moves"})
"""Tables with a tenant_id whose rows do not go with a tenant that moves to another database. What hangs on search_feeds
is removed with it, and built anew where the tenant goes."""

MARKS: Final = {
    "schema_versions": {"version", "name", "apply_time"},
    "events": {"tenant_id", "session_id", "seq"},
    "session_heads": {"tenant_id", "session_id", "version"},
    "sessions": {"tenant_id", "session_id", "status"},
}
"""Columns by which the service recognises its own tables."""
