"""Rewinds: sessions that are taken back to an earlier place of their log."""
