"""RetentionService."""
