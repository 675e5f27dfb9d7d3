"""Runs: their rules, counters, and the work of one session while a batch is decided."""
