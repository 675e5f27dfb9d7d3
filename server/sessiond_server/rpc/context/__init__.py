"""ContextService."""
