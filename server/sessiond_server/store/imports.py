"""The contract for imports of sessions: what has arrived of them is kept beside the sessions, and shows nowhere, until
one transaction makes the session of it. Errors, times, bytes and cancelling as in contract.py."""

from collections.abc import Sequence
from typing import Protocol

from sessiond_server.domain.attachments.rows import Piece
from sessiond_server.domain.commands import Scope
from sessiond_server.domain.imports.rows import Arrived, Import, Imported, ImportStart, StagedPiece, StagedRows


class ImportStore(Protocol):
    """Unfinished imports by tenant and id. Only the call that took an import up last may change it: to all others the
    methods return False or None, and change nothing."""

    async def take_up_import(self, scope: Scope, start: ImportStart) -> Import:
        """Begins the import, or takes it up behind what has arrived of it."""
        ...

    async def staged_events(self, taken: Import, *, after_seq: int, limit: int) -> Sequence[bytes]:
        """At most `limit` of the import's serialised Events with seq > after_seq, ascending, within PAGE_BYTES."""
        ...

    async def stage(self, taken: Import, rows: StagedRows, arrived: Arrived) -> bool:
        """Adds rows; the import has come as far as `arrived`, durably, from then on.

        Raises MessageAlreadyExists if two messages have one id; then nothing is added.
        """
        ...

    async def begin_piece(self, taken: Import, attachment_id: str, piece: Piece, start: int) -> bool:
        """Records a piece of the attachment, before its first byte is written. It is dropped when the import is given
        up, or `upload_retention` after the import was last taken up, unless the import is complete by then."""
        ...

    async def end_piece(self, taken: Import, piece: StagedPiece, arrived: Arrived) -> bool:
        """Records that the bytes of the piece are stored, and how far the import has come with them."""
        ...

    async def complete_import(self, taken: Import, imported: Imported) -> bytes | None:
        """Makes the session, with all that was staged, and forgets the import. Returns the session's core.

        Raises SessionAlreadyExists, for a deleted session too, SessionQuotaReached.
        """
        ...

    async def give_up_import(self, taken: Import) -> bool:
        """Forgets the import and drops its pieces."""
        ...

    async def purge_imports(self, limit: int) -> int:
        """Removes what is left of imports that are complete, were given up, or have not moved for `upload_retention`:
        at most `limit` rows. Returns how many; 0 when nothing is left."""
        ...
