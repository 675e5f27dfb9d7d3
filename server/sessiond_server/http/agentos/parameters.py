"""Query parameters, read as the platform reads them: the last one of a name counts, and unknown ones are ignored."""

import re
from typing import Final
from urllib.parse import parse_qsl

from sessiond_server.http.agentos.refusals import Invalid, Json, fault, not_one_of
from sessiond_server.http.problems import malformed
from sessiond_server.http.queries import MOST_PARAMETERS

_INTEGER: Final = re.compile(r"\s*[+-]?[0-9]{1,18}(\.0*)?\s*").fullmatch
_SWITCH: Final = {
    **dict.fromkeys(("true", "1", "on", "t", "y", "yes"), True),
    **dict.fromkeys(("false", "0", "off", "f", "n", "no"), False),
}


class Parameters:
    """Those of one request. What breaks a rule is gathered; `check` raises it together."""

    def __init__(self, query: bytes) -> None:
        """Raises Problem where it is no query at all."""
        try:
            pairs = parse_qsl(
                query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MOST_PARAMETERS
            )
        except ValueError:
            raise malformed("the query is not percent-encoded UTF-8, or has too many parameters") from None
        self._values: dict[str, list[str]] = {}
        for name, value in pairs:
            self._values.setdefault(name, []).append(value)
        self.faults: list[Json] = []
        """What breaks a rule, so far."""

    def text(self, name: str) -> str | None:
        return self._values[name][-1] if name in self._values else None

    def texts(self, name: str) -> list[str]:
        return self._values.get(name, [])

    def choice(self, name: str, choices: tuple[str, ...]) -> str | None:
        value = self.text(name)
        if value is not None and value not in choices:
            self.faults.append(not_one_of(("query", name), choices))
        return value

    def integer(self, name: str, least: int | None = None, most: int | None = None) -> int | None:
        """A number from `least` to `most`, both inclusive."""
        text = self.text(name)
        if text is None:
            return None
        if not _INTEGER(text):
            message = "Input should be a valid integer, unable to parse string as an integer"
            self.faults.append(fault("int_parsing", ("query", name), message))
            return None
        value = int(text.partition(".")[0])
        if least is not None and value < least:
            message = f"Input should be greater than or equal to {least}"
            self.faults.append(fault("greater_than_equal", ("query", name), message, ge=least))
        if most is not None and value > most:
            message = f"Input should be less than or equal to {most}"
            self.faults.append(fault("less_than_equal", ("query", name), message, le=most))
        return value

    def switch(self, name: str) -> bool:
        value = _SWITCH.get((self.text(name) or "false").lower() if self.text(name) != "" else "")
        if value is None:
            message = "Input should be a valid boolean, unable to interpret input"
            self.faults.append(fault("bool_parsing", ("query", name), message))
        return bool(value)

    def add(self, found: Json) -> None:
        """A rule that the caller has found broken."""
        self.faults.append(found)

    def check(self) -> None:
        """Raises Invalid if a rule is broken."""
        if self.faults:
            raise Invalid(self.faults)
