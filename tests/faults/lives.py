"""Sessions that come and go during a campaign: created, written to, ended or deleted, each watched from its first event
to its last. Some take the id of one that was just deleted, while its watcher still listens.

Some are created and changed in batches, beside a session that is refused. Their appends write two documents along, one
of the session and one that all of them share; their states change by patches, alone and with messages; some of their
messages are drafts first, whose writer may fail (drafts.py), some are searched for, deleted, and not found, and some
are taken back, which may be undone."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from google.protobuf.json_format import MessageToDict

import sessiond
from sessiond.fields import ChangedSession, NewSessionFields, ToolCallExpireActionLike
from sessiond.v1.event_pb2 import EventType
from sessiond.v1.message_service_pb2 import AppendMessagesResponse
from sessiond_server.domain.context.ended_calls import EXPIRED
from sessiond_server.domain.fold import fold
from tests.faults.drafts import ENDINGS, Joiner, WriterFailed, content_of, pieces_of
from tests.faults.history import Closed, Lost, Opened, Record, got
from tests.faults.ledger import Ack

PADDING = "so that changes of the state are stored as patches " * 60
EXPIRE_ACTIONS: Final[tuple[ToolCallExpireActionLike, ToolCallExpireActionLike]] = ("reject", "fail")
MOST_LIVES = 4
"""Of one id."""
ASK_AFTER = 2.0
"""Seconds without the last event after which the database is asked whether it still has it."""
DELETED = EventType.EVENT_TYPE_SESSION_DELETED


@dataclass
class Life:
    """One session and what its own watcher was told."""

    session_id: str
    before: "Life | None" = None
    """The deleted session whose id it took."""
    followed: bool = False
    """Another session took its id, or tried to."""
    acks: list[Ack] = field(default_factory=list)
    """Of its creation and of all that followed."""
    documents: list[tuple[int, int]] = field(default_factory=list)
    """Of each acknowledged append: the versions of the session's document and of the shared one."""
    state: dict[str, Any] = field(default_factory=dict)
    """As the acknowledged writes have made it."""
    reads: int = 0
    misread: int = 0
    """Of these, how many had another state, version or beginning than what was acknowledged."""
    folded: sessiond.Session = field(default_factory=sessiond.Session)
    """From the events that its watcher got, without the deletion."""
    folded_wrongly: int = 0
    deleted: Ack | None = None
    lost: bool = False
    """A write found the session gone, as a failover that loses makes it."""
    records: list[Record] = field(default_factory=list)
    seq: int = 0
    """Of the last event that came."""
    compacted: bool = False
    """Its watcher was refused: what follows its position is not of this session."""
    overdue: bool = False
    """The watch did not get that far, or did not end after the deletion."""
    joiners: list[Joiner] = field(default_factory=list)

    @property
    def base(self) -> int:
        """The version of the deletion behind which its log begins."""
        return self.before.deleted.seq if self.before is not None and self.before.deleted is not None else 0

    @property
    def generation(self) -> int:
        return 1 if self.before is None else self.before.generation + 1


class Lives:
    """`workers` sessions at a time live one life after the other. Runs until stopped."""

    def __init__(self, client: sessiond.Client, *, workers: int, seed: int, patience: float) -> None:
        """`patience`: seconds until a watch of a deleted session must have ended."""
        self.lives: list[Life] = []
        self._client = client
        self._workers = workers
        self._patience = patience
        self._chance = random.Random(seed)
        self._stopped = False

    async def run(self) -> None:
        """Returns when stopped and every life that was begun is over."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._workers):
                tasks.create_task(self._live(tasks))

    def stop(self) -> None:
        self._stopped = True

    async def _live(self, tasks: asyncio.TaskGroup) -> None:
        before: Life | None = None
        while not self._stopped:
            life = Life(f"life-{len(self.lives)}" if before is None else before.session_id, before)
            if before is not None:
                before.followed = True
            self.lives.append(life)
            watching = await self._one(life)
            # The next one takes the id while this one is still watched.
            may_follow = life.deleted is not None and not life.lost and life.seq >= life.acks[0].seq
            follows = may_follow and life.generation < MOST_LIVES and self._chance.random() < 0.7
            before = life if follows else None
            ending = tasks.create_task(self._end(life, watching))
            if not follows:
                await ending

    async def _one(self, life: Life) -> "asyncio.Task[None] | None":
        """Its watch, unless it was not created."""
        client, session_id, chance = self._client, life.session_id, self._chance
        writes = (
            self._append,
            self._append_and_update,
            self._update,
            self._draft,
            self._approval,
            self._summary,
            self._found,
            self._taken_back,
        )
        state = {"life": f"{session_id}, {life.generation}", "padding": PADDING}
        reuse, in_batch = life.before is not None, chance.random() < 0.5
        new: NewSessionFields = {"session_id": session_id, "active": True, "state": state, "reuse_deleted": reuse}

        async def create(request_id: str) -> sessiond.Session:
            if in_batch:
                refused: NewSessionFields = {"expire_time": datetime(2000, 1, 1, tzinfo=UTC)}
                return _first(await client.batch_create_sessions([new, refused], request_id=request_id))
            return await client.create_session(**new, request_id=request_id)

        if await self._write(life, create) is None:
            return None
        life.state = dict(state)
        watching = asyncio.create_task(self._watch(life))
        try:
            await self._read(life)
            for number in range(chance.randrange(1, 6)):
                await asyncio.sleep(chance.uniform(0.0, 0.5))
                write = chance.choice(writes)
                await write(life, number)
                if chance.random() < 0.4:
                    await self._read(life)
            await self._read(life)
            if chance.random() < 0.3:
                await self._write(life, lambda request_id: client.end_session(session_id, request_id=request_id))
            if chance.random() < 0.7:
                life.deleted = await self._write(
                    life, lambda request_id: client.delete_session(session_id, request_id=request_id)
                )
        except BaseException:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            raise
        return watching

    async def _end(self, life: Life, watching: "asyncio.Task[None] | None") -> None:
        """Returns when its watcher has everything."""
        if watching is None:
            return
        try:
            await self._watched(life, watching)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        last = life.acks[-1].seq - (life.deleted is not None)
        if life.folded.version == last:
            life.folded_wrongly += MessageToDict(life.folded.state) != life.state

    async def _append(self, life: Life, number: int) -> None:
        text = f"{life.session_id}, {number}"

        async def append(request_id: str) -> AppendMessagesResponse:
            own = sessiond.document_put("last", text, session_id=life.session_id)
            shared = sessiond.document_put("last", text, agent_id="lives")
            answer = await self._client.append_messages(
                life.session_id, [sessiond.user(text)], documents=[own, shared], request_id=request_id
            )
            life.documents.append((answer.documents[0].version, answer.documents[1].version))
            return answer

        await self._write(life, append)

    async def _append_and_update(self, life: Life, number: int) -> None:
        """Sets a member, and may remove another."""
        key, gone = f"k{self._chance.randrange(4)}", f"k{self._chance.randrange(4)}"
        removes = gone != key and self._chance.random() < 0.5
        value = f"{life.generation}.{number}"

        async def append(request_id: str) -> AppendMessagesResponse:
            return await self._client.append_messages(
                life.session_id,
                [sessiond.user(value)],
                update={"state": {key: value}},
                struct_update="set_keys",
                remove_keys=[f"state.{gone}"] if removes else [],
                request_id=request_id,
            )

        if await self._write(life, append):
            life.state[key] = value
            if removes:
                life.state.pop(gone, None)

    async def _update(self, life: Life, number: int) -> None:
        """Sets a member whole, or merges an object into it."""
        merges = self._chance.random() < 0.5
        member = f"m{self._chance.randrange(3)}"
        value: dict[str, Any] = {member: f"{life.generation}.{number}"}
        if merges:
            value["m0" if member != "m0" else "m1"] = None
        in_batch = self._chance.random() < 0.5
        change: ChangedSession = {
            "session_id": life.session_id,
            "state": {"tree": value},
            "struct_update": "merge" if merges else "set_keys",
        }

        async def update(request_id: str) -> sessiond.Session:
            if in_batch:
                refused: ChangedSession = {"session_id": "never created", "name": "x"}
                return _first(await self._client.batch_update_sessions([change, refused], request_id=request_id))
            return await self._client.update_session(**change, view="basic", request_id=request_id)

        if await self._write(life, update):
            tree = life.state.get("tree", {}) if merges else {}
            life.state["tree"] = {key: one for key, one in {**tree, **value}.items() if one is not None}

    async def _approval(self, life: Life, number: int) -> None:
        """A tool call whose approval does not come: the server ends it, with an event that is part of the life, and the
        model is told."""
        what, tool_call_id = self._chance.choice(EXPIRE_ACTIONS), f"call-{number}"

        async def say(request_id: str) -> AppendMessagesResponse:
            asks = sessiond.assistant(sessiond.tool_call(tool_call_id, "search", {}))
            return await self._client.append_messages(
                life.session_id, [sessiond.user("search"), asks], request_id=request_id
            )

        if await self._write(life, say) is None:
            return

        async def request(request_id: str) -> sessiond.ToolCall:
            return await self._client.request_tool_call(
                life.session_id,
                "search",
                tool_call_id=tool_call_id,
                model_call_id=tool_call_id,
                requires_approval=True,
                approval_ttl=1.0,
                expire_action=what,
                request_id=request_id,
            )

        if await self._write(life, request) is None:
            return

        async def ended(_: str) -> sessiond.ToolCall:
            return await self._client.wait_for_decision(life.session_id, tool_call_id, timeout=5.0)

        ack = await self._write(life, ended)
        while ack is not None and not life.lost:
            try:
                context = await self._client.get_context(life.session_id, min_version=ack.seq)
            except (sessiond.Unavailable, sessiond.DeadlinePassed, sessiond.Exhausted):
                await asyncio.sleep(0.05)
            except (sessiond.NotFound, sessiond.VersionNotReached):
                life.lost = True
            else:
                life.reads += 1
                results = [part.tool_result for message in context.messages for part in message.parts]
                life.misread += [each.text for each in results if each.tool_call_id == tool_call_id] != [EXPIRED]
                break

    async def _summary(self, life: Life, number: int) -> None:
        """A summary of all that was acknowledged, which is then the newest one."""
        through, text = life.acks[-1].seq, f"{life.session_id}, {life.generation}, {number}"

        async def summarise(request_id: str) -> int:
            try:
                return (await self._client.create_summary(life.session_id, text, through, request_id=request_id)).seq
            except sessiond.InvalidFields:
                # So the session ends before what was acknowledged, which the ledger judges.
                session = await self._client.get_session(life.session_id, consistency="strong")
                life.lost = session.version < through
                if not life.lost:
                    raise
                return session.version

        ack = await self._write(life, summarise)
        while ack is not None and not life.lost:
            try:
                page = await self._client.list_summaries(life.session_id, page_size=1, min_version=ack.seq).page()
                context = await self._client.get_context(life.session_id, min_version=ack.seq)
                then = await self._client.get_context(life.session_id, as_of_seq=ack.seq)
                before = await self._client.get_context(life.session_id, as_of_seq=ack.seq - 1)
            except (sessiond.Unavailable, sessiond.DeadlinePassed, sessiond.Exhausted):
                await asyncio.sleep(0.05)
            except (sessiond.NotFound, sessiond.VersionNotReached, sessiond.InvalidFields):
                life.lost = True
            else:
                life.reads += 1
                life.misread += (then.version, then.summary) != (ack.seq, context.summary)
                life.misread += before.summary.seq >= ack.seq or before.version != ack.seq - 1
                told = [(found.seq, found.through_seq, found.text) for found in page.summaries]
                life.misread += told != [(ack.seq, through, text)] or context.summary != page.summaries[0]
                break

    async def _found(self, life: Life, number: int) -> None:
        """A message with a word of its own is found, and not any more from its deletion on."""
        word, message_id = f"x{self.lives.index(life)}x{number}x", f"found-{number}"

        async def append(request_id: str) -> AppendMessagesResponse:
            message = sessiond.user(f"Find {word}!", message_id=message_id)
            return await self._client.append_messages(life.session_id, [message], request_id=request_id)

        async def delete(request_id: str) -> object:
            return await self._client.delete_messages(life.session_id, message_ids=[message_id], request_id=request_id)

        for write, is_there in ((append, True), (delete, False)):
            ack = await self._write(life, write)
            until = time.monotonic() + self._patience
            while ack is not None and not life.lost:
                try:
                    wait_for = (life.session_id, ack.seq) if is_there else None
                    page = await self._client.search_messages(word, wait_for=wait_for).page()
                except (sessiond.Unavailable, sessiond.DeadlinePassed, sessiond.Exhausted, sessiond.VersionNotReached):
                    await asyncio.sleep(0.05)
                    right = time.monotonic() < until
                    if right and not await self._is_lost(life):
                        continue
                except sessiond.NotFound:
                    life.lost = True
                    break
                else:
                    hits = [(hit.session_id, hit.message_id) for hit in page.hits]
                    right = hits == ([(life.session_id, message_id)] if is_there else [])
                life.reads += 1
                life.misread += not right and not await self._is_lost(life)
                break

    async def _taken_back(self, life: Life, number: int) -> None:
        """A message, with what it changed in the state, is taken back; that may be undone."""
        place, message_id = life.acks[-1].seq, f"taken-{number}"
        before, after = dict(life.state), {**life.state, "taken": str(number)}

        async def append(request_id: str) -> AppendMessagesResponse:
            return await self._client.append_messages(
                life.session_id,
                [sessiond.user("never mind", message_id=message_id)],
                update={"state": {"taken": after["taken"]}},
                struct_update="set_keys",
                request_id=request_id,
            )

        said = await self._write(life, append)
        if said is None:
            return
        life.state = after
        undoes = self._chance.random() < 0.5
        for to, state, hidden in ((place, before, True), (said.seq, after, False))[: 1 + undoes]:
            ack = await self._write(life, lambda request_id, to=to: self._rewound(life, to, request_id))  # type: ignore[misc]
            if ack is None:
                return
            life.state = state
            await self._read(life)
            await self._is_hidden(life, message_id, ack, hidden=hidden)

    async def _rewound(self, life: Life, place: int, request_id: str) -> sessiond.Session:
        try:
            return await self._client.rewind_session(life.session_id, to=place, request_id=request_id)
        except sessiond.InvalidFields:
            # The session ends before what was acknowledged, which the ledger judges.
            session = await self._client.get_session(life.session_id, consistency="strong")
            life.lost = session.version < place
            if not life.lost:
                raise
            return session

    async def _is_hidden(self, life: Life, message_id: str, ack: Ack, *, hidden: bool) -> None:
        while not life.lost:
            try:
                pages = [
                    await self._client.list_messages(
                        life.session_id, order_by="newest_first", min_version=ack.seq, include_rewound=both
                    ).page()
                    for both in (False, True)
                ]
            except (sessiond.Unavailable, sessiond.DeadlinePassed, sessiond.Exhausted):
                await asyncio.sleep(0.05)
            except (sessiond.NotFound, sessiond.VersionNotReached):
                life.lost = True
            else:
                life.reads += 1
                shown, everything = ({m.message_id: m.rewound for m in page.messages} for page in pages)
                right = shown.get(message_id) == (None if hidden else False) and everything.get(message_id) == hidden
                life.misread += not right
                break

    async def _draft(self, life: Life, number: int) -> None:
        """A message that is shown while it is written. Its writer appends it, fails, or is gone without a word; then
        the message is appended without more ado. Somebody joins in the middle."""
        message_id, ending = f"draft-{number}", self._chance.choice(ENDINGS)
        text = content_of(life.session_id, life.generation, number)
        joiner = Joiner(self._client, life.session_id, message_id, text)
        life.joiners.append(joiner)
        half = len(text) // 2
        ack: Ack | None = None
        async with joiner:
            if ending == "gone":
                for piece in pieces_of(message_id, text[:half]):
                    await self._show(life, piece)
                await joiner.join()
            else:
                draft = self._client.draft(life.session_id, message_id=message_id, interval=0.0)
                try:
                    async with draft:
                        await draft.write(text[:half])
                        await joiner.join()
                        if ending == "fails":
                            raise WriterFailed
                        await draft.write(text[half:])
                        ack = await self._write(life, lambda _: draft.append())
                        if ack is None:
                            raise WriterFailed
                except WriterFailed:
                    pass
                except (sessiond.NotFound, sessiond.Refused):
                    life.lost = True
            if ack is None:
                message = sessiond.assistant(text, message_id=message_id)
                ack = await self._write(
                    life,
                    lambda request_id: self._client.append_messages(life.session_id, [message], request_id=request_id),
                )
            if ack is not None:
                await joiner.has(ack.seq, self._patience, lambda: self._is_lost(life))

    async def _show(self, life: Life, piece: sessiond.Delta) -> None:
        """Publishes one piece, which may be lost."""
        try:
            await self._client.publish_delta(life.session_id, [piece])
        except (sessiond.Unavailable, sessiond.DeadlinePassed, sessiond.Exhausted):
            pass
        except (sessiond.NotFound, sessiond.Refused):
            life.lost = True

    async def _read(self, life: Life) -> None:
        """Reads it from the database and through the cache, and compares it with what was acknowledged."""
        for strong in (True, False):
            while not life.lost:
                last = life.acks[-1].seq
                try:
                    found = await self._client.get_session(
                        life.session_id,
                        min_version=0 if strong else last,
                        consistency="strong" if strong else "cached",
                    )
                except (sessiond.Unavailable, sessiond.DeadlinePassed, sessiond.Exhausted):
                    await asyncio.sleep(0.05)
                except (sessiond.NotFound, sessiond.VersionNotReached):
                    life.lost = True
                else:
                    life.reads += 1
                    right = (found.version, found.base_version) == (last, life.base)
                    life.misread += not (right and MessageToDict(found.state) == life.state)
                    break

    async def _watched(self, life: Life, watching: "asyncio.Task[None]") -> None:
        """Returns when the watcher has everything."""
        last = max((ack.seq for ack in life.acks), default=0)
        began = asked = time.monotonic()
        while not (watching.done() or life.lost or life.overdue or (life.deleted is None and life.seq >= last)):
            await asyncio.sleep(0.02)
            now = time.monotonic()
            life.overdue = now > began + self._patience
            if now > asked + ASK_AFTER:
                await self._is_lost(life)
                asked = time.monotonic()
        if watching.done():
            watching.result()

    async def _is_lost(self, life: Life) -> bool:
        """Whether a restore or a failover took writes of the life that were acknowledged: its watcher, if it had not
        got them, waits for what will not come."""
        try:
            found = await self._client.get_session(life.session_id, consistency="strong")
        except (sessiond.Unavailable, sessiond.DeadlinePassed, sessiond.Exhausted):
            return False
        except sessiond.NotFound:
            life.lost |= life.deleted is None
        else:
            life.lost |= found.version < life.acks[-1].seq
        return life.lost

    async def _write(self, life: Life, write: Callable[[str], Awaitable[object]]) -> Ack | None:
        """Until it is acknowledged, or the session turns out to be lost."""
        request_id, tried = sessiond.new_request_id(), time.time()
        while not life.lost:
            began = time.time()
            try:
                answer = await write(request_id)
            except (sessiond.Unavailable, sessiond.DeadlinePassed, sessiond.Exhausted):
                await asyncio.sleep(0.05)
            except (sessiond.NotFound, sessiond.Refused, sessiond.AlreadyExists):
                life.lost = True
            else:
                ack = Ack(time.time(), life.session_id, _version(answer), began, tried, "")
                life.acks.append(ack)
                return ack
        return None

    async def _watch(self, life: Life) -> None:
        try:
            async with self._client.watch(life.session_id, from_beginning=True) as watch:
                life.records.append(Opened(time.time(), -1, life.base, b"", b""))
                async for event in watch:
                    life.records.append(got(time.time(), event))
                    life.seq = event.seq
                    self._fold(life, event)
        except sessiond.PositionCompacted as error:
            life.compacted = True
            life.records.append(Closed(time.time(), error.reason))
        except sessiond.PositionGone as error:
            life.records.append(Lost(time.time(), error.reason))
        except sessiond.NotFound:
            pass  # it has been deleted, or was lost, before the watch began or went on

    def _fold(self, life: Life, event: sessiond.Event) -> None:
        if event.type != DELETED:
            try:
                life.folded = fold(life.folded, event)
            except ValueError:
                life.folded_wrongly += 1


def _first(results: Sequence[sessiond.Session | sessiond.SessiondError]) -> sessiond.Session:
    """The session of a batch whose other one is refused."""
    result, refused = results
    assert isinstance(refused, sessiond.InvalidFields | sessiond.SessionNotFound)
    if isinstance(result, sessiond.SessiondError):
        raise result
    return result


def _version(answer: object) -> int:
    version: int = answer if isinstance(answer, int) else getattr(answer, "version", 0)
    return version
