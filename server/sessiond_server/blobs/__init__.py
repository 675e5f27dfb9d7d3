"""Bytes of attachments: where they are kept, and how they come and go."""
