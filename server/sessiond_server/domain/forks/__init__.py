"""Forks: sessions that share the beginning of their log with another one."""
