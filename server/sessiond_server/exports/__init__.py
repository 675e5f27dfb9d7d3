"""Reads whole sessions for exports, and makes sessions of what imports bring."""
