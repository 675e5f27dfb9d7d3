"""The kinds of sources, by the names that `sessiond import` knows."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from sessiond_server.sources import adk, chat_lines, chatgpt, coding_agent, sessions_file
from sessiond_server.sources.foreign import Read

KINDS: Final[Mapping[str, Callable[[Path], Read]]] = {
    sessions_file.KIND: sessions_file.read,
    coding_agent.KIND: coding_agent.read,
    chat_lines.KIND: chat_lines.read,
    chatgpt.KIND: chatgpt.read,
    adk.KIND: adk.read,
}
