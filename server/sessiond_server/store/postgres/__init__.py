"""Postgres as the truth: the only package that imports asyncpg."""
