"""Every term of one to four characters that a scan of all texts finds is found, and nothing else, in every script."""

from collections.abc import Mapping, Sequence
from random import Random

import pytest

from sessiond_server.domain import commands as c
from sessiond_server.store.contract import Store
from tests.support.caller import Caller, accepted, message
from tests.support.effort import batches
from tests.support.scanning import DEMO, occurrences, texts_of
from tests.support.search import index_all, messages

BATCH = 150
AT_ONCE = 100


async def written(store: Store, texts: Sequence[str]) -> None:
    caller = Caller()
    await accepted(store, caller.create("s", name=""))
    for start in range(0, len(texts), AT_ONCE):
        part = [message(text) for text in texts[start : start + AT_ONCE]]
        await accepted(store, caller.command("s", c.AppendMessages(part)))
    await index_all(store)


async def missed(store: Store, expected: Mapping[str, set[int]], queries: Sequence[str]) -> list[str]:
    """What is wrong with the hits of each query."""
    problems = []
    for query in queries:
        found = {hit.seq - 2 for hit in await messages(store, query, limit=100)}
        if found != expected[query]:
            problems.append(f"{query!r}: {sorted(found)} are found, {sorted(expected[query])} have it")
    return problems


@pytest.mark.parametrize("batch", batches(1, 20))
async def test_short_terms_are_found_where_they_occur_and_nowhere_else(store: Store, batch: int) -> None:
    texts = texts_of(DEMO)
    expected = occurrences(texts)
    queries = sorted(expected)
    Random(1).shuffle(queries)
    await written(store, texts)
    problems = await missed(store, expected, queries[batch * BATCH : (batch + 1) * BATCH])
    assert not problems, "\n".join(problems)


def test_batches_are_enough_for_all_terms() -> None:
    assert 19 * BATCH < len(occurrences(texts_of(DEMO))) <= 20 * BATCH
