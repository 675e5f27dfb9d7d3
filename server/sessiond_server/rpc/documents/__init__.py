"""DocumentService."""
