"""Templates: named defaults for new sessions."""
