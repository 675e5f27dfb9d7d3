"""Attachments: their rules and rows."""
