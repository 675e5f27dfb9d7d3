"""Commits and session reads with a cache in front. Losing the cache costs latency, never correctness."""
