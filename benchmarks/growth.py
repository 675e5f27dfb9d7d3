"""Growth: the same calls on short and on long logs, with few and with many sessions, in alternation."""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from google.protobuf.field_mask_pb2 import FieldMask

from benchmarks.load import Load, Pressure, Sample, Script, Step
from benchmarks.measure import Measured, checked, empty_handler, lone
from benchmarks.rows import (
    append,
    append_with_state,
    find_messages,
    fork,
    get_session,
    get_session_as_of,
    list_messages,
    list_messages_from_database,
    list_sessions,
    pop,
    set_key,
)
from benchmarks.site import Site, message
from sessiond.v1.message_service_pb2 import AppendMessagesRequest
from sessiond.v1.session_pb2 import Session
from sessiond.v1.session_service_pb2 import ForkSessionRequest, UpdateSessionRequest
from sessiond_server.domain.forks.rows import CORES

LENGTHS = (10, 1_000, 100_000)
SESSIONS = 4
"""Of each length. With few callers, so that the short ones are still short at the end of a measurement."""
CALLERS = 8
LISTED = 50

_CALLS: dict[str, tuple[str, Callable[[str], Step]]] = {
    "growth_append_100k": ("AppendMessages(1)", lambda session_id: append(session_id, 1)),
    "growth_get_100k": ("GetSession", get_session),
    "growth_list_100k": ("ListMessages(50)", list_messages),
}
NAMES = (*_CALLS, "growth_list_sessions")
STATE = "state_growth"
STATE_KIB = (1, 100, 500)
"""Of the states that `state_growth` changes one key of."""
WITH_STATE = "append_with_state"
SCOPES = (0, 1, 3, 4)
"""Of which an append of `append_with_state` changes the state; the first is the session's own."""
FIND = "find_by_label"
FOUND_AMONG = (100, 100_000)
"""Messages of the sessions in which `find_by_label` finds FOUND messages."""
FOUND = 20
POP = "pop"
FORK = "fork_growth"
FORKED_OF = (10, 100_000)
"""Messages of the sessions that `fork_growth` forks."""
DEPTH = "fork_depth_read"
DEPTHS = (1, 100)
"""Generations of the forks that `fork_depth_read` reads."""
AS_OF = "as_of_growth"
AS_OF_AMONG = (200, 100_000)
"""Messages of the sessions that `as_of_growth` reads as of their middle: the same number of events behind a core."""
FASTEST = 1_500
"""More pops a second than a lone caller makes: the sessions must not run out of messages."""


def measure_lengths(
    names: Sequence[str], site: Site, load: Load, pressure: Pressure, rounds: int, folder: Path
) -> list[Measured]:
    """The rows of `names` that measure how the cost depends on the length of a log."""
    longest = site.fresh("long", SESSIONS, messages=LENGTHS[-1])
    few = Pressure(pressure.seconds, pressure.warmup, CALLERS, CALLERS // 2)
    results = []
    for name in names:
        title, call = _CALLS[name]

        def scripts(length: int, call: Callable[[str], Step] = call) -> Sequence[Script]:
            ids = longest if length == LENGTHS[-1] else site.fresh(f"l{length}", SESSIONS, messages=length)
            return [[call(one)] for one in ids]

        least = LISTED if name == "growth_list_100k" else 0
        subjects = [(n, site, scripts) for n in LENGTHS]
        results.append(_measure(name, title, "messages", subjects, load, few, rounds, folder, least))
    return results


def measure_sessions(
    sites: Sequence[tuple[int, Site]], load: Load, pressure: Pressure, rounds: int, folder: Path
) -> Measured:
    """ListSessions on databases with fewer and more sessions."""
    few = Pressure(pressure.seconds, pressure.warmup, CALLERS, CALLERS // 2)
    subjects = [(count, site, lambda _: [[list_sessions()]]) for count, site in sites]
    return _measure("growth_list_sessions", "ListSessions(20)", "sessions", subjects, load, few, rounds, folder)


def measure_states(site: Site, load: Load, pressure: Pressure, rounds: int, folder: Path) -> Measured:
    """How long a lone caller waits for the change of one key, in states of different sizes."""
    alone = Pressure(pressure.seconds, pressure.warmup, callers=1, connections=1)

    def scripts(size: int) -> Sequence[Script]:
        ids = site.fresh(f"state{size}", SESSIONS)
        for one in ids:
            site.sessions.UpdateSession(_state_of(one, size), timeout=60)
        return [[set_key(one)] for one in ids]

    subjects = [(size, site, scripts) for size in STATE_KIB]
    return _measure(STATE, "UpdateSession of one key", "KiB of state", subjects, load, alone, rounds, folder)


def measure_with_state(site: Site, load: Load, pressure: Pressure, rounds: int, folder: Path) -> Measured:
    """How long a lone caller waits for an append with state, compared with a plain one.

    With the state alone, with the state of three scopes (the session's, and a document each of the agent and the user),
    and with one document more.
    """
    alone = Pressure(pressure.seconds, pressure.warmup, callers=1, connections=1)

    def scripts(scopes: int) -> Sequence[Script]:
        ids = site.fresh(f"with{scopes}", SESSIONS)
        return [[append_with_state(one, scopes - 1) if scopes else append(one, 1)] for one in ids]

    subjects = [(scopes, site, scripts) for scopes in SCOPES]
    title = "AppendMessages(1) with state"
    return _measure(WITH_STATE, title, "scopes", subjects, load, alone, rounds, folder)


def measure_finds(site: Site, load: Load, pressure: Pressure, rounds: int, folder: Path) -> Measured:
    """How long a lone caller waits for the messages with a label, in a short and in a long session."""
    alone = Pressure(pressure.seconds, pressure.warmup, callers=1, connections=1)
    found = [message(number) for number in range(FOUND)]
    for one in found:
        one.labels["topic"] = "tea"
    sessions = {}
    for length in FOUND_AMONG:
        sessions[length] = site.fresh(f"find{length}", SESSIONS, messages=length // 2)
        for session_id in sessions[length]:
            site.messages.AppendMessages(AppendMessagesRequest(session_id=session_id, messages=found), timeout=60)
        site.extend(sessions[length], length - length // 2 - FOUND)

    def scripts(length: int) -> Sequence[Script]:
        return [[find_messages(one)] for one in sessions[length]]

    subjects = [(length, site, scripts) for length in FOUND_AMONG]
    return _measure(FIND, "ListMessages by label", "messages", subjects, load, alone, rounds, folder)


def measure_pops(site: Site, load: Load, pressure: Pressure, rounds: int, folder: Path) -> Measured:
    """How long a lone caller waits for a pop, compared with an append."""
    alone = Pressure(pressure.seconds, pressure.warmup, callers=1, connections=1)
    needed = round(FASTEST * (pressure.seconds + pressure.warmup) * (rounds + 1) / SESSIONS)
    full, other = site.fresh("pop", SESSIONS, messages=needed), site.fresh("pushed", SESSIONS)

    def scripts(popped: int) -> Sequence[Script]:
        return [[pop(one)] for one in full] if popped else [[append(one, 1)] for one in other]

    subjects = [(popped, site, scripts) for popped in (0, 1)]
    result = _measure(POP, "DeleteMessages(last_n=1)", "message", subjects, load, alone, rounds, folder)
    result.extra["compared_with"] = "AppendMessages(1)"
    return result


def measure_forks(site: Site, load: Load, pressure: Pressure, rounds: int, folder: Path) -> Measured:
    """How long a lone caller waits for a fork in the middle of a short and of a long session."""
    alone = Pressure(pressure.seconds, pressure.warmup, callers=1, connections=1)
    sessions = {length: site.fresh(f"fork{length}", SESSIONS, messages=length) for length in FORKED_OF}

    def scripts(length: int) -> Sequence[Script]:
        return [[fork(one, length // 2)] for one in sessions[length]]

    subjects = [(length, site, scripts) for length in FORKED_OF]
    return _measure(FORK, "ForkSession", "messages", subjects, load, alone, rounds, folder)


def measure_as_of(site: Site, load: Load, pressure: Pressure, rounds: int, folder: Path) -> Measured:
    """How long a lone caller waits for a short and for a long session as it was in its middle."""
    alone = Pressure(pressure.seconds, pressure.warmup, callers=1, connections=1)
    sessions = {length: site.fresh(f"asof{length}", SESSIONS, messages=length) for length in AS_OF_AMONG}

    def scripts(length: int) -> Sequence[Script]:
        return [[get_session_as_of(one, length // 2 // CORES * CORES + CORES // 2)] for one in sessions[length]]

    subjects = [(length, site, scripts) for length in AS_OF_AMONG]
    return _measure(AS_OF, "GetSession as of an earlier place", "messages", subjects, load, alone, rounds, folder)


def measure_depths(site: Site, load: Load, pressure: Pressure, rounds: int, folder: Path) -> Measured:
    """How long a lone caller waits for the newest 50 of 200 messages, of forks of one and of 100 generations, read from
    the database."""
    alone = Pressure(pressure.seconds, pressure.warmup, callers=1, connections=1)
    sessions = {depth: [_forked(site, f"depth{depth}-{number}", depth) for number in range(2)] for depth in DEPTHS}

    def scripts(depth: int) -> Sequence[Script]:
        return [[list_messages_from_database(one)] for one in sessions[depth]]

    subjects = [(depth, site, scripts) for depth in DEPTHS]
    return _measure(DEPTH, "ListMessages(50) of a fork", "generations", subjects, load, alone, rounds, folder)


def _forked(site: Site, name: str, depth: int) -> str:
    """A session that many forks deep, to which each generation has added as many messages."""
    (session_id,) = site.fresh(name, 1, messages=200 // (depth + 1))
    for _ in range(depth):
        made = site.sessions.ForkSession(ForkSessionRequest(session_id=session_id), timeout=60)
        session_id = made.session_id
        site.extend([session_id], max(200 // (depth + 1), 1))
    return session_id


def _state_of(session_id: str, kib: int) -> UpdateSessionRequest:
    """Gives a session a state of that size, in members of 100 bytes."""
    session = Session(session_id=session_id)
    session.state.update({f"member {number:06d}": "v" * 80 for number in range(kib * 1024 // 106)})
    return UpdateSessionRequest(session=session, update_mask=FieldMask(paths=["state"]))


def _measure(
    name: str,
    title: str,
    unit: str,
    subjects: Sequence[tuple[int, Site, Callable[[int], Sequence[Script]]]],
    load: Load,
    pressure: Pressure,
    rounds: int,
    folder: Path,
    least: int = 0,
) -> Measured:
    """`least`: the size from which on the answers are the same, so that costs can be compared."""
    samples: dict[int, list[Sample]] = {size: [] for size, _, _ in subjects}
    ceilings = []
    largest, site, scripts = subjects[-1]
    last = scripts(largest)
    with empty_handler(site.answers(last), folder) as (port, process):
        for number in range(rounds):
            ceilings.append(load.measure(port, last, pressure, process))
            # Every other round in the opposite order: neither end gets the warmer caches.
            for size, site, scripts in subjects if number % 2 == 0 else reversed(subjects):
                sample = load.measure(site.port, scripts(size), pressure, site.server, site.postgres)
                samples[size].append(checked(f"{name} at {size}", sample))
    result = Measured(name, f"{title}, {largest:,} {unit}", samples[largest], ceilings)
    # A page of the shortest log is no page of 50: its answer is another one.
    smallest = next(size for size, _, _ in subjects if size >= least)
    result.lone = load.measure(subjects[-1][1].port, last, lone(pressure), subjects[-1][1].server)
    result.extra["compared_with"] = f"{smallest} {unit}"
    result.extra["costs"] = {
        str(size): statistics.median(
            small.calls_per_second / large.calls_per_second
            for small, large in zip(samples[smallest], some, strict=True)
        )
        for size, some in samples.items()
        if size >= least
    }
    result.extra["cost_of_growth"] = result.extra["costs"][str(largest)]
    result.extra["calls_per_s"] = {
        str(size): statistics.median(one.calls_per_second for one in some) for size, some in samples.items()
    }
    return result
