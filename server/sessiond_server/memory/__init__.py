"""In-memory implementations of the store, the cache, the bus and the blob store."""
