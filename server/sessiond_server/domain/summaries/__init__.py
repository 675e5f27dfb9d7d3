"""Summaries: their rules."""
