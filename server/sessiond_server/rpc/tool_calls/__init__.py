"""ToolCallService."""
