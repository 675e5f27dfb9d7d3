"""What was committed, kept beside the store: what any answer may be compared with."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sessiond.v1.message_pb2 import Message
from sessiond.v1.session_pb2 import Session
from sessiond_server.domain.commands import Command
from sessiond_server.domain.rows import Key
from sessiond_server.memory.store import MemoryStore
from sessiond_server.store.commits import Applied
from sessiond_server.store.session_reads import MessagesPage
from tests.support.caller import PATCHING


@dataclass
class Truth:
    """A store that remembers every version of every session."""

    store: MemoryStore = field(default_factory=lambda: MemoryStore(policy=PATCHING))
    versions: dict[Key, int] = field(default_factory=dict)
    """Latest committed, that of a deletion too."""
    deleted: set[Key] = field(default_factory=set)
    """Sessions that are deleted now."""
    deletions: dict[Key, list[int]] = field(default_factory=dict)
    """Versions at which a session with this id was deleted, ascending."""
    bases: dict[tuple[Key, int], int] = field(default_factory=dict)
    """At each version, that of the deletion before it; 0: none."""
    cores: dict[tuple[Key, int], tuple[bytes, bytes]] = field(default_factory=dict)
    """(core, content) at each version."""
    messages: dict[tuple[Key, int], list[bytes]] = field(default_factory=dict)
    """All messages at each version, ascending."""

    async def apply(self, commands: Sequence[Command]) -> Applied:
        applied = await self.store.apply(commands)
        for gone in applied.writes.deletions:
            self.deletions.setdefault(gone.key, []).append(gone.version)
        for row in applied.writes.heads:
            if row.head.deleted:
                self.versions[row.key] = row.head.version
                self.deleted.add(row.key)
                continue
            self.deleted.discard(row.key)
            scope = commands[0].scope
            session = await self.store.get_session(scope, row.key[1], content=True)
            page = await self.store.list_messages(
                scope, row.key[1], after_seq=0, before_seq=0, descending=False, limit=10**6
            )
            self.versions[row.key] = session.version
            self.cores[row.key, session.version] = (session.core, session.content)
            self.messages[row.key, session.version] = list(page.messages)
            self.bases[row.key, session.version] = Session.FromString(session.core).base_version
        return applied

    def may_be_gone(self, key: Key, at_least: int) -> bool:
        """Whether there was no such session at some version from `at_least` on."""
        return key not in self.versions or any(version >= at_least for version in self.deletions.get(key, ()))

    def is_session(self, key: Key, version: int, core: bytes, content: bytes | None) -> bool:
        """Whether the session had these bytes at that version. Parsed: the order of a map's entries is free."""
        known = self.cores.get((key, version))
        if known is None:
            return False
        same_core = Session.FromString(known[0]) == Session.FromString(core)
        return same_core and (content is None or Session.FromString(known[1]) == Session.FromString(content))

    def is_page(self, key: Key, page: MessagesPage, after: int, before: int, descending: bool, limit: int) -> bool:
        """Whether that is what the store would have answered at the page's version."""
        known = self.messages.get((key, page.version))
        if known is None:
            return False
        seqs = [Message.FromString(message).seq for message in known]
        selected = [m for m, seq in zip(known, seqs, strict=True) if seq > after and (not before or seq < before)]
        if descending:
            selected.reverse()
        return list(page.messages) == selected[:limit] and page.more == (len(selected) > limit)
