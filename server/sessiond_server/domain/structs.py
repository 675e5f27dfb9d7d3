"""Validates google.protobuf.Struct: only values that Postgres' jsonb and every JSON parser accept."""

import math
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import chain, islice
from typing import Final

from google.protobuf.message import Message
from google.protobuf.struct_pb2 import ListValue, Struct, Value

from sessiond_server.domain.text import NUL_RULE, quoted_key

DEPTH = 24
"""Most levels of nesting. The object itself is level 1; each object or array inside another adds one."""

SLICE: Final = 5_000
"""Values that are looked at in one piece: some milliseconds."""
LONGEST_LIST: Final = 1_000
"""Messages in a list whose objects are looked at: the check refuses requests with longer lists anyway."""

Fault = tuple[str, str]
"""(path relative to the struct, such as `.fields["a"].list_value.values[3]`; the broken rule)."""

_ahead: ContextVar["Ahead | None"] = ContextVar("ahead", default=None)


class Ahead:
    """What is known of the objects of one request, all of which are looked at before it is checked: by turns with
    other calls, as a request may have objects of many values."""

    def __init__(self) -> None:
        self._faults: dict[int, tuple[Struct, Fault | None]] = {}
        """By the identity of the object, which is kept, so that no other one gets that identity."""

    def look(self, request: Message) -> Iterator[None]:
        """Looks at all objects of the request; yields where other calls may have a turn."""
        seen, within = 0, [iter((request,))]
        while within:
            message = next(within[-1], None)
            if message is None:
                within.pop()
                continue
            if (seen := seen + 1) % SLICE == 0:
                yield
            if isinstance(message, Struct):
                self._faults[id(message)] = message, (yield from _search(message))
                continue
            for field, value in message.ListFields():
                kind = field.message_type
                if kind is None or kind.GetOptions().map_entry:
                    continue
                if isinstance(value, Message):
                    within.append(iter((value,)))
                elif len(value) <= LONGEST_LIST:
                    within.append(iter(value))

    @contextmanager
    def known(self) -> Iterator[None]:
        """Lets `fault`, in this task, answer from what is known. Once, because it is forgotten at the end."""
        token = _ahead.set(self)
        try:
            yield
        finally:
            _ahead.reset(token)
            self._faults.clear()  # tasks that began meanwhile keep this object with their context

    def of(self, struct: Struct) -> "tuple[Struct, Fault | None] | None":
        """The object and its fault; None if the object has not been looked at."""
        return self._faults.get(id(struct))


def fault(struct: Struct, most_bytes: int = 0) -> Fault | None:
    """Returns the first fault of an object, or None. `most_bytes` bounds its serialised size; 0: no bound.

    Takes about a microsecond for each value of an object that has not been looked at (`Ahead`). Stops at an object that
    is too large or too deep.
    """
    if most_bytes and struct.ByteSize() > most_bytes:
        return "", f"must be at most {most_bytes} bytes serialised"
    ahead = _ahead.get()
    if ahead is not None and (known := ahead.of(struct)) is not None:
        return known[1]
    level = [struct], list[ListValue]()
    for _ in range(DEPTH):
        inner = list[Struct](), list[ListValue]()
        if not (_sound_keys(level[0]) and _sound_values(_values(*level), *inner)):
            break
        if not any(inner):
            return None
        level = inner
    # Nearly all objects are valid. A second, slower walk finds the path of the fault in one that is not.
    return next(filter(None, _object_faults(struct, "", 1)))


def _search(struct: Struct) -> Generator[None, None, Fault | None]:
    """As `fault`; yields after every SLICE values."""
    if (yield from _is_sound(struct)):
        return None
    for seen, found in enumerate(_object_faults(struct, "", 1)):
        if found is not None:
            return found
        if seen % SLICE == SLICE - 1:
            yield
    raise AssertionError("the two walks disagree")


def _is_sound(struct: Struct) -> Generator[None, None, bool]:
    level = [struct], list[ListValue]()
    for _ in range(DEPTH):
        inner = list[Struct](), list[ListValue]()
        if not _sound_keys(level[0]):
            return False
        values = _values(*level)
        while part := list(islice(values, SLICE)):
            if not _sound_values(part, *inner):
                return False
            if len(part) == SLICE:
                yield
        if not any(inner):
            return True
        level = inner
    return False


def _values(objects: list[Struct], arrays: list[ListValue]) -> Iterator[Value]:
    """The values of one level."""
    return chain(chain.from_iterable(o.fields.values() for o in objects), chain.from_iterable(a.values for a in arrays))


def _sound_keys(objects: list[Struct]) -> bool:
    return not any("\0" in "".join(o.fields) for o in objects)


def _sound_values(values: Iterable[Value], objects: list[Struct], arrays: list[ListValue]) -> bool:
    """Whether none of the values has a fault of its own. Adds the objects and arrays among them to the lists."""
    for value in values:
        kind = value.WhichOneof("kind")
        if kind == "string_value":
            if "\0" in value.string_value:
                return False
        elif kind == "number_value":
            if not math.isfinite(value.number_value):
                return False
        elif kind == "struct_value":
            objects.append(value.struct_value)
        elif kind == "list_value":
            arrays.append(value.list_value)
        elif kind is None or value.null_value != 0:
            # null_value of a value of another kind reads as its default, 0.
            return False
    return True


def _object_faults(struct: Struct, path: str, level: int) -> Iterator[Fault | None]:
    """The faults, and None for each value that has none."""
    if level > DEPTH:
        yield path, f"must be at most {DEPTH} levels deep"
        return
    for key, value in struct.fields.items():
        if "\0" in key:
            yield f"{path}.fields[{quoted_key(key)}]", "keys " + NUL_RULE
        for found in _value_faults(value, level):
            yield found and (f"{path}.fields[{quoted_key(key)}]{found[0]}", found[1])


def _array_faults(array: ListValue, level: int) -> Iterator[Fault | None]:
    if level > DEPTH:
        yield "", f"must be at most {DEPTH} levels deep"
        return
    for index, value in enumerate(array.values):
        for found in _value_faults(value, level):
            yield found and (f".values[{index}]{found[0]}", found[1])


def _value_faults(value: Value, level: int) -> Iterator[Fault | None]:
    yield None
    match value.WhichOneof("kind"):
        case "string_value":
            if "\0" in value.string_value:
                yield "", NUL_RULE
        case "number_value":
            if not math.isfinite(value.number_value):
                yield "", "must be a finite number"
        case "struct_value":
            for found in _object_faults(value.struct_value, "", level + 1):
                yield found and (f".struct_value{found[0]}", found[1])
        case "list_value":
            for found in _array_faults(value.list_value, level + 1):
                yield found and (f".list_value{found[0]}", found[1])
        case "null_value":
            if value.null_value != 0:
                yield "", "must be a known value"
        case None:
            yield "", "must have a value"
