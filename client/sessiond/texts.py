"""Names the argument that has text which no request can carry: half of a surrogate pair, which UTF-8 cannot encode.

protobuf raises a UnicodeEncodeError that names no field, wherever such text is put into a message. It comes from files
and names that were decoded with `surrogateescape`, and from JSON with half of a pair.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

from sessiond.errors import InvalidFields, Violation

Parameters = ParamSpec("Parameters")
Returned = TypeVar("Returned")
Class = TypeVar("Class", bound=type)

RULE = "must have no half of a surrogate pair, which UTF-8 cannot encode"
_LEVELS = 32
"""How deep text is looked for. The service takes objects of 24 levels."""


def naming_texts(function: Callable[Parameters, Returned]) -> Callable[Parameters, Returned]:
    """Makes a function raise InvalidFields, with the argument's name, in place of a UnicodeEncodeError. One that no
    argument explains, such as an error of the caller's own code, is raised as it is."""
    called = cast("Callable[..., Any]", function)

    @wraps(function)
    async def waited(*arguments: Any, **named: Any) -> Any:
        try:
            return await called(*arguments, **named)
        except UnicodeEncodeError:
            _check(called, arguments, named)
            raise

    @wraps(function)
    def direct(*arguments: Any, **named: Any) -> Any:
        try:
            return called(*arguments, **named)
        except UnicodeEncodeError:
            _check(called, arguments, named)
            raise

    return cast("Callable[Parameters, Returned]", waited if inspect.iscoroutinefunction(function) else direct)


def naming_texts_of_methods(cls: Class) -> Class:
    """Does so for each public method of a class and its bases. Methods that return what makes its requests later, such
    as lists and watches, raise at once."""
    for name, method in inspect.getmembers(cls, inspect.isfunction):
        if not name.startswith("_"):
            setattr(cls, name, naming_texts(method) if inspect.iscoroutinefunction(method) else _checking(method))
    return cls


def _checking(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def checked(*arguments: Any, **named: Any) -> Any:
        # Names of positional arguments take several times longer than the rest: they are looked up for a fault only.
        for value in (*arguments, *named.values()):
            if value is not None and next(_faults(value, "", _LEVELS), None) is not None:
                _check(method, arguments, named)
        return method(*arguments, **named)

    return checked


def _check(function: Callable[..., Any], arguments: tuple[Any, ...], named: Mapping[str, Any]) -> None:
    """Raises InvalidFields for the first argument that has such text."""
    signature = inspect.signature(function)
    try:
        given = signature.bind(*arguments, **named)
    except TypeError:
        return  # the call raises it
    for parameter in signature.parameters.values():
        value = given.arguments.get(parameter.name)
        kept_apart = parameter.kind is parameter.VAR_KEYWORD
        for place in _faults(value, "" if kept_apart else parameter.name, _LEVELS):
            raise InvalidFields(
                f"{place}: {RULE}",
                reason="INVALID_FIELD",
                code="INVALID_ARGUMENT",
                violations=[Violation(place, RULE)],
            ) from None


def _faults(value: object, path: str, levels: int) -> Iterator[str]:
    """The places of such text in strings, mappings, lists and tuples. A key that has some stands for its mapping."""
    if isinstance(value, str):
        if not value.isascii() and not _encodes(value):
            yield path
    elif not levels:
        return
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if isinstance(key, str) and not _encodes(key):
                yield path
            yield from _faults(item, f"{path}.{key}" if path else f"{key}", levels - 1)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _faults(item, f"{path}[{index}]", levels - 1)


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
