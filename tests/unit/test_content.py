"""Contents that are stored as a whole one and patches: folds, limits, and when the whole content is stored anew."""

import pytest
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from hypothesis import given, settings
from hypothesis import strategies as st

from sessiond import apply_patch, session_after
from sessiond.v1.event_pb2 import Event, EventType, SessionPatch
from sessiond.v1.session_pb2 import Session, SessionConfig, SessionView
from sessiond.v1.session_service_pb2 import StructUpdate
from sessiond_server.domain import commands as c
from sessiond_server.domain import encoding, fold
from sessiond_server.domain.encoding import PATCH
from sessiond_server.domain.rows import Policy
from sessiond_server.domain.sessions import content as contents
from sessiond_server.domain.sessions import parts
from sessiond_server.domain.sessions.content import Sizes, patch_of, stored_patch, whole
from sessiond_server.domain.sessions.validation import STATE_BYTES
from sessiond_server.errors import InvalidFields, RequestIdReused
from tests.support.content_updates import SET_KEYS, struct, update
from tests.support.effort import examples
from tests.support.session_log import KEY, MERGE, REPLACE, Log, user

EXAMPLES = examples(15, 40)
PATCHING = Policy(least_patched_bytes=0, content_patches=3)

KEYS = st.sampled_from(["a", "b", "c", "é", "with.dot"])
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.text(max_size=200), st.lists(st.none(), max_size=2)
)
VALUES = st.recursive(SCALARS, lambda inner: st.dictionaries(KEYS, inner, max_size=3), max_leaves=8)
OBJECTS: st.SearchStrategy[dict[str, object]] = st.dictionaries(KEYS, VALUES, max_size=4)


@st.composite
def updates(draw: st.DrawFn) -> c.UpdateSession:
    """Any update of the content."""
    how = draw(st.sampled_from([REPLACE, MERGE, SET_KEYS, SET_KEYS]))
    session, paths, removed = Session(), [], []
    for name in draw(st.lists(st.sampled_from(["metadata", "state", "agent_data"]), unique=True, max_size=2)):
        paths.append(name)
        if draw(st.booleans()):
            getattr(session, name).CopyFrom(struct(draw(OBJECTS)))
    if how == SET_KEYS and paths:
        members = draw(st.lists(KEYS, unique=True, max_size=2))
        removed = [f"{paths[0]}.{key}" for key in members if key not in getattr(session, paths[0]).fields]
    other = draw(st.sampled_from(["", "", "summary", "config", "config.max_messages", "config.system_prompt", "name"]))
    if other:
        paths.append(other)
        session.summary, session.name = draw(st.sampled_from(["", "s", "long " * 50])), "n"
        if draw(st.booleans()):
            session.config.max_messages = draw(st.integers(100, 200))
            session.config.system_prompt = draw(st.sampled_from(["", "be kind"]))
    paths = paths or ["state"]
    return c.UpdateSession(session, tuple(paths), how, tuple(removed), full=draw(st.booleans()))


@settings(max_examples=EXAMPLES)
@given(state=OBJECTS, changes=st.lists(updates(), max_size=12), policy=st.sampled_from([PATCHING, Policy()]))
def test_any_updates_fold_to_the_row(state: dict[str, object], changes: list[c.UpdateSession], policy: Policy) -> None:
    """From every snapshot on, and whether or not an answer with the content is asked for."""
    log, plain = Log(policy), Log(Policy(content_patches=0))
    for each in (log, plain):
        each.create(state=struct(state), summary="s" * 300)
    before = [log.session()]
    for change in changes:
        result, expected = log.do(change), plain.do(change)
        assert isinstance(result, c.SessionWritten)
        assert isinstance(expected, c.SessionWritten)
        if change.full:
            assert parsed(result) == parsed(expected)
        before.append(log.session())
        assert before[-1] == plain.session()
    for start, snapshot in enumerate(before):
        folded = snapshot
        for event in log.log()[start + 1 :]:
            folded = fold.fold(folded, event)
        assert folded == log.session()


def parsed(written: c.SessionWritten) -> Session:
    return Session.FromString(written.session.core + written.session.content)


@settings(max_examples=EXAMPLES)
@given(state=OBJECTS, changes=st.lists(updates(), max_size=8))
def test_a_chain_is_what_its_patches_make_of_the_whole(
    state: dict[str, object], changes: list[c.UpdateSession]
) -> None:
    session = Session(state=struct(state), summary="s")
    chain = [b"of an older chain", parts.content_of(session)]
    for change in changes:
        if (patch := patch_of(change)) is not None:
            apply_patch(session, patch)
            chain.append(stored_patch(patch))
    assert Session.FromString(whole(chain)) == session


@settings(max_examples=EXAMPLES)
@given(state=OBJECTS, changes=st.lists(updates(), max_size=8))
def test_sizes_are_never_too_low(state: dict[str, object], changes: list[c.UpdateSession]) -> None:
    session = Session(state=struct(state))
    sizes = Sizes.of_whole(session, 1)
    for version, change in enumerate(changes, 2):
        if (patch := patch_of(change)) is not None:
            apply_patch(session, patch)
            sizes = sizes.after_patch(patch, version)
            exact = sizes.exact(session)
            assert exact.total <= sizes.total
            assert exact.state <= sizes.state
            assert exact.metadata <= sizes.metadata
            assert exact.agent_data <= sizes.agent_data
            assert Sizes.decoded(sizes.encoded(), version) == sizes
            assert Sizes.decoded(sizes.encoded(), version + 1) is None


def test_sizes_are_not_too_low_where_length_prefixes_grow() -> None:
    deep: dict[str, object] = {"v": "x" * 120}
    for _ in range(20):
        deep = {"d": deep}
    session = Session(state=struct(deep))
    sizes = Sizes.of_whole(session, 1)
    added: dict[str, object] = {"w": "y" * 10}
    for _ in range(20):
        added = {"d": added}
    patch = patch_of(update(MERGE, state=added))
    assert patch is not None
    apply_patch(session, patch)
    assert sizes.exact(session).state <= sizes.after_patch(patch, 2).state


def test_a_member_set_twice_is_folded_without_parsing_the_object() -> None:
    """The serialised object has the key twice; every decoder takes the last one."""
    base = parts.content_of(Session(state=struct({"a": 1, "b": "x" * 100})))
    chain = [base, *(stored_patch(patch_of(update(state={"a": n})) or SessionPatch()) for n in (2, 3))]
    folded = whole(chain)
    assert len(folded) > len(base)
    assert json_format.MessageToDict(Session.FromString(folded).state) == {"a": 3, "b": "x" * 100}


def test_a_folded_object_never_exceeds_its_limit() -> None:
    base = parts.content_of(Session(state=struct({"a": "x" * 700_000})))
    folded = whole([base, stored_patch(patch_of(update(state={"a": "y" * 700_000})) or SessionPatch())])
    assert len(folded) < 700_100
    assert Session.FromString(folded).state.fields["a"].string_value[:1] == "y"


def test_patches_without_what_they_apply_to_are_refused() -> None:
    with pytest.raises(ValueError, match="nothing that they apply to"):
        whole([PATCH])


def test_an_event_has_the_patch_and_the_core_only() -> None:
    log = Log(PATCHING)
    log.create(state=struct({"a": "x" * 1000}))
    log.ok(update(state={"b": 1}))
    event = log.log()[-1]
    assert event.session_view == SessionView.SESSION_VIEW_PATCH
    assert not event.session.HasField("state")
    assert event.session.content_version == 2
    assert json_format.MessageToDict(event.session_patch.session.state) == {"b": 1}
    assert list(event.session_patch.keys_set) == ["state"]
    assert event.ByteSize() < 500


def test_a_server_of_a_version_before_patches_fails_on_one() -> None:
    """It would take a content's bytes as they are: no message may be made of them."""
    log = Log(PATCHING)
    log.create(state=struct({"a": "x" * 1000}))
    log.ok(update(state={"b": 1}))
    row = log.events[KEY][-1]
    assert row.content is not None
    with pytest.raises(Exception, match="Error parsing message"):
        Session.FromString(row.body + row.content)
    assert not encoding.event(row.type, row.head, row.body, row.content).count(PATCH + b"\n")


def views(log: Log) -> list[str]:
    return [SessionView.Name(event.session_view).removeprefix("SESSION_VIEW_") for event in log.log()]


def test_the_whole_content_is_stored_after_so_many_patches() -> None:
    log = Log(PATCHING)
    log.create(state=struct({"a": "x" * 1000}))
    for n in range(8):
        log.ok(update(state={"b": n}, full=n % 2 == 0))
    assert views(log) == ["FULL", *["PATCH"] * 3, "FULL", *["PATCH"] * 3, "FULL"]


def test_the_whole_content_is_stored_once_patches_are_larger_than_it() -> None:
    log = Log(Policy(least_patched_bytes=0))
    log.create(state=struct({"a": "x" * 1000}))
    for n in range(3):
        log.ok(update(state={"b": f"{n}" * 400}, full=False))
    assert views(log) == ["FULL", "PATCH", "PATCH", "FULL"]


def test_a_small_content_is_stored_whole() -> None:
    log = Log()
    log.create(state=struct({"a": "x" * 1500}))
    log.ok(update(state={"b": 1}))
    assert views(log) == ["FULL", "FULL"]


@pytest.mark.parametrize("full", [True, False])
def test_a_content_of_exactly_the_least_size_is_patched(full: bool) -> None:
    """And one that is a byte smaller is not."""
    size = Session(state=struct({"a": "x" * 1500})).ByteSize()
    for least, view in ((size, "PATCH"), (size + 1, "FULL")):
        log = Log(Policy(least_patched_bytes=least))
        log.create(state=struct({"a": "x" * 1500}))
        log.ok(update(state={"b": 1}, full=full))
        assert views(log) == ["FULL", view]
        if not full:
            assert log.asked.contents == ([] if view == "PATCH" else [(KEY, 1)])


def test_no_patch_is_stored_where_the_policy_allows_none() -> None:
    log = Log(Policy(content_patches=0))
    log.create(state=struct({"a": "x" * 5000}))
    log.ok(update(state={"b": 1}, full=False))
    assert views(log) == ["FULL", "FULL"]


def test_one_member_is_written_without_reading_the_content() -> None:
    log = Log()
    log.create(state=struct({"a": "x" * 5000}))
    log.ok(update(state={"b": 1}, full=False))
    assert log.asked.contents == []
    log.ok(update(state={"b": 2}))
    assert log.asked.contents == [(KEY, 2)]
    log.ok(c.UpdateAndAppend([user()], update(state={"b": 3}, full=False)))
    assert log.asked.contents == []
    assert log.session().state.fields["b"].number_value == 3


def test_members_of_the_metadata_need_the_rest_of_them() -> None:
    log = Log()
    log.create(metadata=struct({"a": "x" * 5000}))
    log.ok(update(metadata={"b": "1"}, full=False))
    assert log.asked.contents == [(KEY, 1)]
    assert '"b":' in (log.written.index[0].metadata_json or "")
    assert "xxx" in (log.written.index[0].metadata_json or "")
    log.ok(update(REPLACE, metadata={"c": "1"}, full=False))
    assert log.asked.contents == []
    assert json_format.Parse(log.written.index[0].metadata_json or "", Struct()) == struct({"c": "1"})


def test_an_update_of_the_state_writes_no_row_of_the_list() -> None:
    log = Log()
    log.create(state=struct({"a": "x" * 5000}))
    log.ok(update(state={"b": 1}, full=False))
    assert log.written.index == []
    log.ok(update(name="renamed"))
    assert log.written.index[0].name == "renamed"


def test_the_sizes_of_another_version_are_not_believed() -> None:
    """A server of the version before writes contents without them."""
    log = Log()
    log.create(state=struct({"a": "x" * 5000}))
    log.heads[KEY].content_sizes = Sizes.of_whole(Session(), 7).encoded()
    log.ok(update(state={"b": 1}, full=False))
    assert log.asked.contents == [(KEY, 1)]
    assert views(log) == ["FULL", "FULL"]


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("how", [MERGE, SET_KEYS])
def test_a_patch_that_brings_an_object_above_its_limit_is_refused(how: StructUpdate.ValueType, full: bool) -> None:
    log = Log()
    room = STATE_BYTES - struct({"a": "x" * 1_000_000, "b": "y" * 1000}).ByteSize()
    log.create(state=struct({"a": "x" * (1_000_000 + room)}))
    fits = log.do(update(how, state={"b": "y" * 1000}, full=full))
    assert isinstance(fits, c.SessionWritten)
    before = log.session()
    refused = log.do(update(how, state={"b": "y" * 1001}, full=full))
    assert isinstance(refused, InvalidFields)
    assert [v.field for v in refused.violations] == ["session.state"]
    assert log.session() == before
    assert isinstance(log.do(update(how, state={"b": "z"}, full=full)), c.SessionWritten)


@pytest.mark.parametrize("full", [True, False])
def test_a_patch_that_brings_the_content_above_its_limit_is_refused(full: bool) -> None:
    log = Log()
    mib = "x" * (1024 * 1024 - 100)
    log.create(
        state=struct({"a": mib}), agent_data=struct({"a": mib}), config=SessionConfig(system_prompt="é" * 262_144)
    )
    log.ok(update(summary="𝄞" * 65_536, metadata={"a": "x" * 60_000}, full=full))
    refused = log.do(update(REPLACE, config=SessionConfig(system_prompt="𝄞" * 262_144), full=full))
    assert isinstance(refused, InvalidFields)
    assert [v.field for v in refused.violations] == ["session"]


def test_an_update_may_follow_refused_ones_of_its_batch() -> None:
    """The batch counts their patches too, so it may read a content that it would not need."""
    log = Log(PATCHING)
    log.create(state=struct({"a": "x" * 1000}))
    changes = [log.command(update(state={"b": n}, full=False), expected_version=9) for n in range(5)]
    *refused, done = log.apply(*changes, log.command(update(state={"b": 9}, full=False)))
    assert all(isinstance(result, Exception) for result in refused)
    assert isinstance(done, c.SessionWritten)
    assert log.session().state.fields["b"].number_value == 9


@pytest.mark.parametrize("full", [True, False])
def test_a_retry_gets_the_first_outcome_of_a_patch(full: bool) -> None:
    log = Log(PATCHING)
    log.create(state=struct({"a": "x" * 1000}))
    outcomes = [log.ok(update(state={"b": n}, full=full), request_id=f"r{n}") for n in range(6)]
    for n, first in enumerate(outcomes):
        again = log.ok(update(state={"b": n}, full=full), request_id=f"r{n}")
        assert isinstance(first, c.SessionWritten)
        assert isinstance(again, c.SessionWritten)
        assert parsed(again) == parsed(first)
        assert (again.session.content == b"") == (not full)
    assert isinstance(log.do(update(state={"b": 7}), request_id="r0", fingerprint=b"g"), RequestIdReused)


def test_limits_follow_a_patch_of_the_config() -> None:
    log = Log(PATCHING)
    log.create(state=struct({"a": "x" * 1000}), config=SessionConfig(max_messages=5, blocked_tools=["b"]))
    one = Session(config=SessionConfig(max_messages=1, system_prompt="be kind"))
    log.ok(c.UpdateSession(one, ("config.max_messages", "config.system_prompt"), REPLACE, full=False))
    assert views(log)[-1] == "PATCH"
    assert log.session().config == SessionConfig(max_messages=1, blocked_tools=["b"], system_prompt="be kind")
    assert SessionConfig.FromString(log.heads[KEY].limits) == SessionConfig(max_messages=1, blocked_tools=["b"])
    log.ok(update(REPLACE, config=SessionConfig(allowed_tools=["c"], system_prompt="x"), full=False))
    assert SessionConfig.FromString(log.heads[KEY].limits) == SessionConfig(allowed_tools=["c"])


def test_a_session_after_its_deletion_has_no_content() -> None:
    event = Event(type=EventType.EVENT_TYPE_SESSION_DELETED, session_view=SessionView.SESSION_VIEW_BASIC)
    assert session_after(Session(summary="s"), event) == Session()


def test_the_whole_content_goes_to_the_cache_where_it_is_known() -> None:
    log = Log(PATCHING)
    log.create(state=struct({"a": "x" * 1000}))
    log.ok(update(state={"b": 1}))
    (row,) = log.written.heads
    assert row.content is not None
    assert Session.FromString(row.content).state.fields["b"].number_value == 1
    log.ok(update(state={"b": 2}, full=False))
    (row,) = log.written.heads
    assert row.content is None
    assert row.head.content_version == 3


def test_a_touch_does_not_give_the_cache_the_content_again() -> None:
    log = Log()
    log.create(state=struct({"a": 1}))
    log.ok(c.TouchSession(0))
    assert log.written.heads[0].content is None


def test_every_object_of_the_content_has_a_limit() -> None:
    objects = [f.name for f in Session.DESCRIPTOR.fields if f.message_type == Struct.DESCRIPTOR]
    assert sorted(objects) == sorted(contents.OBJECT_BYTES)
