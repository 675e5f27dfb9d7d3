"""MessageService."""
