"""Messages: their rules."""
