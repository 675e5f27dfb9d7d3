"""Copies of what the store holds. Never believed: losing them costs latency only."""
