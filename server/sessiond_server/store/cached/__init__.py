"""A store with a cache over it. The cache is never believed: losing it costs latency only."""
