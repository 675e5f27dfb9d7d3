"""All that speaks to Postgres: store, bus by NOTIFY, blobs, schema. The only package that imports asyncpg."""
