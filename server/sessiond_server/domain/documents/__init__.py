"""Documents: their rules and rows."""
