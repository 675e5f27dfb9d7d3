"""UsageService."""
