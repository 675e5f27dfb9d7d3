"""Sessions: their rules, life cycle, and parts."""
