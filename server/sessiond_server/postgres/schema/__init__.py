"""The schema and the migrations that yield it."""
