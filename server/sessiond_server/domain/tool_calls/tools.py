"""Checks which tools a session's config allows."""

from sessiond.v1.session_pb2 import SessionConfig


def tool_allowed(limits: SessionConfig, name: str) -> bool:
    """Whether the config allows the tool. Blocked tools are never allowed; an empty allow list allows all others."""
    return name not in limits.blocked_tools and (not limits.allowed_tools or name in limits.allowed_tools)
