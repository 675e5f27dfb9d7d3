"""The schema and the migrations that produce it."""
