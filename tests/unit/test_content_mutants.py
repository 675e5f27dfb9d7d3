"""Contents with one rule of their patches broken at a time: what the comparison of log and row then sees."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from google.protobuf import json_format

from sessiond.v1.event_pb2 import SessionPatch
from sessiond_server.domain import state
from sessiond_server.domain.encoding import PATCH
from sessiond_server.domain.rows import Policy
from sessiond_server.domain.sessions import content
from sessiond_server.domain.sessions.content import Sizes, whole
from sessiond_server.domain.sessions.validation import STATE_BYTES
from tests.support import session_log
from tests.support.content_updates import struct, update
from tests.support.session_log import MERGE, Log

Chain = Sequence[bytes]


def checked_history() -> Log:
    """Every kind of change, with and without the content at hand. After each, the row must be what the log tells, and
    in the end what plain rules make of it."""
    log = Log(Policy(least_patched_bytes=0, content_patches=4))
    log.create(state=struct({"a": 1, "gone": 1}), agent_data=struct({"x": {"y": 1, "z": 2}}), summary="s" * 500)
    for number in range(6):
        for change in (
            update(state={"a": number, f"k{number}": 1}, full=number % 2 == 0),
            update(MERGE, state={"gone": None}, full=number % 2 == 0),
            update(MERGE, agent_data={"x": {"y": number, "z": None}}, full=number % 2 == 0),
            update(state={"gone": number}, full=number % 2 == 0),
        ):
            log.ok(change)
            assert log.folded() == log.session()
    session = log.session()
    assert json_format.MessageToDict(session.state) == {"a": 5, "gone": 5, **{f"k{n}": 1 for n in range(6)}}
    assert json_format.MessageToDict(session.agent_data) == {"x": {"y": 5}}
    return log


def test_nothing_is_seen_where_nothing_is_broken() -> None:
    checked_history()


def _last_patch_twice_first_forgotten(chain: Chain) -> bytes:
    patches = [stored for stored in chain if stored.startswith(PATCH)]
    return whole([*chain, patches[-2]] if len(patches) > 1 else chain)


def _on_the_first_whole(chain: Chain) -> bytes:
    base = next(stored for stored in chain if not stored.startswith(PATCH))
    last = max(place for place, stored in enumerate(chain) if not stored.startswith(PATCH))
    return whole([base, *chain[last + 1 :]])


def _without_the_whole(chain: Chain) -> bytes:
    last = max(place for place, stored in enumerate(chain) if not stored.startswith(PATCH))
    return whole([b"", *chain[last + 1 :]]) if chain[last + 1 :] else whole(chain)


def _without_the_last_patch(chain: Chain) -> bytes:
    return whole(chain[:-1] if chain and chain[-1].startswith(PATCH) else chain)


def _backwards(chain: Chain) -> bytes:
    last = max(place for place, stored in enumerate(chain) if not stored.startswith(PATCH))
    return whole([chain[last], *reversed(chain[last + 1 :])])


@pytest.mark.parametrize(
    "broken",
    [
        _last_patch_twice_first_forgotten,
        _on_the_first_whole,
        _without_the_whole,
        _without_the_last_patch,
        _backwards,
    ],
)
def test_a_wrong_chain_is_seen(monkeypatch: pytest.MonkeyPatch, broken: Callable[[Chain], bytes]) -> None:
    monkeypatch.setattr(session_log, "whole", broken)
    with pytest.raises((AssertionError, KeyError)):
        checked_history()


@pytest.mark.parametrize("name", ["removed_keys", "keys_set", "merged"])
def test_a_part_of_the_patch_that_is_not_applied_is_seen(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    applied = content._Folded.apply

    def partly(self: content._Folded, patch: SessionPatch) -> None:
        rest = SessionPatch()
        rest.CopyFrom(patch)
        rest.ClearField(name)  # type: ignore[arg-type]
        applied(self, rest)

    monkeypatch.setattr(content._Folded, "apply", partly)
    with pytest.raises((AssertionError, KeyError)):
        checked_history()


def test_a_patch_that_events_call_the_whole_content_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "is_patch", lambda stored: False)
    with pytest.raises(AssertionError):
        checked_history()


def test_sizes_that_do_not_grow_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """An object would grow above its limit."""

    def grown(log: Log) -> int:
        log.create(state=struct({"a": "x" * (STATE_BYTES - 1000)}))
        log.do(update(state={"b": "y" * 2000}, full=False))
        return log.session().state.ByteSize()

    assert grown(Log()) <= STATE_BYTES
    monkeypatch.setattr(Sizes, "after_patch", lambda self, patch, version: self)
    assert grown(Log()) > STATE_BYTES


def test_patches_that_are_not_counted_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sizes, "allows_patch", lambda self, policy: True)
    log = checked_history()
    seqs = [row.seq for row in log.events[session_log.KEY] if row.content and not row.content.startswith(PATCH)]
    assert seqs == [1]  # the chain would grow without a bound
    monkeypatch.undo()
    log = checked_history()
    seqs = [row.seq for row in log.events[session_log.KEY] if row.content and not row.content.startswith(PATCH)]
    assert max(later - earlier for earlier, later in pairwise(seqs)) <= 5
