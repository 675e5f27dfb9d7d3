"""From a path to its rule. Paths are split before they are decoded, so that ids may have slashes (`%2F`) and colons."""

import re
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import unquote

from sessiond_server.http.problems import Problem, malformed
from sessiond_server.http.rules import RULES, Rule

VARIABLE: Final = re.compile(r"\{([a-z_.]+)\}")


class Paths:
    """Finds rules by method and path."""

    def __init__(self, rules: Sequence[Rule] = RULES) -> None:
        self._rules: dict[int, list[tuple[re.Pattern[str], Rule]]] = {}
        """By the number of slashes in the path."""
        for rule in rules:
            pattern = "".join(
                "([^/]+)" if place % 2 else re.escape(piece) for place, piece in enumerate(VARIABLE.split(rule.path))
            )
            self._rules.setdefault(rule.path.count("/"), []).append((re.compile(pattern), rule))

    def find(self, method: str, path: str) -> tuple[Rule, Mapping[str, str]]:
        """The rule, and the values of its fields. `path`: as it was sent. Raises Problem."""
        others = set()
        for pattern, rule in self._rules.get(path.count("/"), ()):
            if (match := pattern.fullmatch(path)) is None:
                continue
            if rule.method == method:
                return rule, _decoded(VARIABLE.findall(rule.path), match.groups())
            others.add(rule.method)
        if others:
            raise not_allowed(method, others)
        raise Problem(404, "NO_SUCH_PATH", "there is nothing at this path; /v1/openapi.json says what there is")

    def methods(self, path: str) -> set[str]:
        """Which methods a path has."""
        rules = self._rules.get(path.count("/"), ())
        return {rule.method for pattern, rule in rules if pattern.fullmatch(path)}


def not_allowed(method: str, allowed: set[str]) -> Problem:
    names = ", ".join(sorted(allowed))
    text = f"{method} is not a method of this path, which has {names}"
    return Problem(405, "METHOD_NOT_ALLOWED", text, headers=[("allow", names)])


def _decoded(names: Sequence[str], values: Sequence[str]) -> Mapping[str, str]:
    try:
        return {name: unquote(value, errors="strict") for name, value in zip(names, values, strict=True)}
    except UnicodeDecodeError:
        raise malformed("the path is not percent-encoded UTF-8") from None
