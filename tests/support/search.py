"""Searches as tests make them, over any store."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from sessiond.v1.search_service_pb2 import MessageHit, SessionHit, Snippet
from sessiond_server.domain.commands import Scope
from sessiond_server.postgres.search import BUCKET_BITS, salt, salted
from sessiond_server.search.contract import SearchIndex, Where
from sessiond_server.search.finding import Hits, find_messages, find_sessions
from sessiond_server.search.query import key, parse
from sessiond_server.search.text import canonical, terms


async def index_all(store: Any) -> int:
    """Returns once the index of the store has seen all that is committed: how many events it has read."""
    upkeep = getattr(store, "search_upkeep", None)
    count = 0
    while upkeep is not None and (behind := await upkeep.behind()):
        for index in behind:
            count += (await upkeep.advance(index.feed_id)).events
        await asyncio.sleep(0)  # another test's transaction may hold the feed back
    return count


def index_of(store: Any) -> SearchIndex:
    index: SearchIndex = store.search
    return index


async def messages(store: Any, text: str, scope: Scope | None = None, **options: Any) -> list[MessageHit]:
    """All hits, of all pages."""
    return [hit async for page in message_pages(store, text, scope, **options) for hit in page.hits]


async def message_pages(
    store: Any, text: str, scope: Scope | None = None, *, limit: int = 3, relevance: bool = False, **where: Any
) -> AsyncIterator[Hits[MessageHit]]:
    after = None
    while True:
        page = await find_messages(
            index_of(store), scope or Scope("tenant"), parse(text), Where(**where), relevance=relevance, after=after,
            limit=limit,
        )  # fmt: skip
        yield page
        after = page.next
        if after is None:
            return


async def sessions(
    store: Any, text: str, scope: Scope | None = None, *, limit: int = 3, relevance: bool = False, **where: Any
) -> list[SessionHit]:
    found: list[SessionHit] = []
    after = None
    while True:
        page = await find_sessions(
            index_of(store), scope or Scope("tenant"), parse(text), Where(**where), relevance=relevance, after=after,
            limit=limit,
        )  # fmt: skip
        found += page.hits
        after = page.next
        if after is None:
            return found


def keys_of(word: str, feed_id: int, kind: int, count: int) -> list[int]:
    """The keys by which an index of Postgres with so many rows of a kind knows a word, and its beginning."""
    buckets = range((count >> BUCKET_BITS) + 1)
    keys = [key(term) for term in terms([canonical(word)])]
    return [one for bucket in buckets for one in salted(keys, salt(feed_id, kind, bucket))]


def marked(snippet: Snippet) -> str:
    """The text of a snippet, with its hits in brackets."""
    text = "".join(f"[{each.text}]" if each.hit else each.text for each in snippet.segments)
    return ("…" if snippet.begins_within else "") + text + ("…" if snippet.ends_within else "")


def places(hits: list[MessageHit]) -> list[tuple[str, int]]:
    return [(hit.session_id, hit.seq) for hit in hits]
