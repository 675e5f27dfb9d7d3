"""The limits of each part, from the settings."""

from dataclasses import replace
from typing import Final

from sessiond_server.domain.rows import Policy
from sessiond_server.events.limits import HubLimits
from sessiond_server.rpc.pipe.limits import PipeLimits
from sessiond_server.rpc.tls import Certificates
from sessiond_server.rpc.wire_settings import WireSettings
from sessiond_server.settings import Settings
from sessiond_server.spans import Tracer
from sessiond_server.store.batching import BatchLimits
from sessiond_server.store.cached.contract import CacheLimits

_MICROSECOND: Final = 1_000_000


def policy(settings: Settings) -> Policy:
    return Policy(
        default_ttl_us=round(settings.default_ttl * _MICROSECOND),
        max_live_sessions=settings.max_live_sessions,
        max_attachment_bytes=settings.max_attachment_size,
        max_session_attachment_bytes=settings.max_session_attachments_size,
        content_patches=settings.content_patches,
    )


def batcher(settings: Settings) -> BatchLimits:
    return BatchLimits(
        shards=settings.shards,
        queue_commands=settings.queue_commands,
        queue_bytes=settings.queue_bytes,
        batch_commands=settings.batch_commands,
        batch_bytes=settings.batch_bytes,
        outage=settings.outage,
    )


def cache(settings: Settings) -> CacheLimits:
    return CacheLimits(
        # Traces of a deleted session must be gone before its id can be used again, with versions from 1.
        ttl=min(settings.cache_ttl, settings.tombstone_retention / 2),
        window=settings.cache_window + 1,
    )


def hub(settings: Settings) -> HubLimits:
    """The limits of one database's hub: its share of the memory. Watchers are counted for all together."""
    limits = HubLimits(
        bookmark=settings.bookmark_interval,
        watchers=settings.watchers,
        tombstone_retention=settings.tombstone_retention,
    )
    hubs = len(settings.database_ids)
    if hubs == 1:
        return limits
    drafts = limits.drafts
    return replace(
        limits,
        total_ring_bytes=limits.total_ring_bytes // hubs,
        drafts=replace(
            drafts,
            total_bytes=drafts.total_bytes // hubs,
            tenant_bytes=min(drafts.tenant_bytes, drafts.total_bytes // hubs),
        ),
    )


def wire(
    settings: Settings, certificates: Certificates | None, tracer: Tracer | None = None, loopback: str = ""
) -> WireSettings:
    """`loopback`: the second address, for the HTTP interface."""
    return WireSettings(
        listen=str(settings.listen),
        certificates=certificates,
        loopback=loopback,
        tracer=tracer,
        longest_deadline=settings.longest_deadline,
        ended_retention_us=round(settings.ended_retention * 1_000_000),
        log_successes=settings.access_log == "all",
        call_metrics=settings.metrics_listen is not None,
        reflection=settings.reflects,
        bookmark_interval=settings.bookmark_interval,
        watch_write_timeout=settings.watch_write_timeout,
        watch_age=settings.watch_age,
        drain_pause=settings.drain_pause,
        grace=settings.grace,
        largest_message=settings.max_message_size,
        most_searches=max(1, settings.database_connections // 2),
        most_request_bytes=settings.queue_bytes,
        most_transfers=settings.transfers,
        transfer_idle=settings.transfer_idle,
        pipes=PipeLimits(pipes=settings.pipes, calls=settings.pipe_calls, idle=settings.pipe_idle),
        upload_retention=settings.upload_retention,
    )
