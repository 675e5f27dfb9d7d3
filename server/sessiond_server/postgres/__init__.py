"""All that speaks to Postgres: the store, the bus by NOTIFY, blobs, the schema. The only package that imports asyncpg."""
