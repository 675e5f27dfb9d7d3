"""Converts arguments and results of tools between Python values and ToolData."""

from collections.abc import Mapping
from typing import Any

from sessiond.structs import from_struct, struct_of
from sessiond.v1.tool_call_pb2 import ToolData

ToolValue = Mapping[str, Any] | str | bytes
"""A JSON object, a text (for example JSON as the model wrote it), or bytes."""


def to_tool_data(value: ToolValue) -> ToolData:
    """Raises TypeError and ValueError as `to_struct` does for a mapping, and TypeError for any other type."""
    match value:
        case str():
            return ToolData(text=value)
        case bytes():
            return ToolData(binary=value)
        case Mapping():
            return ToolData(data=struct_of(value))
    raise TypeError(f"a mapping, str or bytes, not {type(value).__name__}")


def from_tool_data(data: ToolData) -> dict[str, Any] | str | bytes | None:
    """Returns the value as `to_tool_data` takes it; None if there is none."""
    match data.WhichOneof("kind"):
        case "data":
            return from_struct(data.data)
        case "text":
            return data.text
        case "binary":
            return data.binary
    return None
