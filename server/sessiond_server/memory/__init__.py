"""In-memory twins of the store, the cache, the bus and the blob store."""
