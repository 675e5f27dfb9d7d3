"""Tool calls: their rules."""
