"""A store and what stands behind it, as tests/conformance has it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from sessiond_server.store.attachments import AttachmentStore
from sessiond_server.store.contract import Store
from sessiond_server.store.documents import DocumentReads
from sessiond_server.store.erasures import ErasureStore
from sessiond_server.store.forks import ForkStore
from sessiond_server.store.imports import ImportStore
from sessiond_server.store.retention import RetentionStore
from sessiond_server.store.templates import TemplateStore
from sessiond_server.store.usage import UsageCounting, UsageReads
from sessiond_server.store.work import WorkStore
from tests.support.caller import Caller


@dataclass
class Backend:
    """One store, what stands behind it, and its clock."""

    store: Store
    other: Store
    """What another replica has: a second instance on the same database; for the memory store the same."""
    work: WorkStore
    """Its runs and tool calls, which no cache has."""
    attachments: AttachmentStore
    """Its attachments, which no cache has."""
    other_attachments: AttachmentStore
    """Those of `other`."""
    documents: DocumentReads
    """Its documents, which no cache has."""
    erasures: ErasureStore
    """Its erasures, which no cache has."""
    retention: RetentionStore
    """Its legal holds, which no cache has."""
    forks: ForkStore
    """Its forks, which no cache has."""
    imports: ImportStore
    """Its imports, which no cache has."""
    templates: TemplateStore
    """Its templates, which no cache has."""
    usage: UsageReads
    """Its counters of usage, which no cache has."""
    counting: UsageCounting
    """What counts for them."""
    advance: Callable[[float], Awaitable[None]]
    """Moves the clock by so many seconds."""
    dsn: str | None = None
    caller: Caller = field(default_factory=Caller)


Open = Callable[..., Awaitable[Backend]]
