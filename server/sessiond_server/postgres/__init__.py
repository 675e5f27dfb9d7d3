"""Everything that uses Postgres: store, bus by NOTIFY, blobs, schema. The only package that imports asyncpg."""
