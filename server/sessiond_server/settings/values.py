"""Parsers for the values of settings, one per kind. Each raises ValueError with the rule, never with the value."""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from sessiond_server.settings import processors

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZES: Final = {"": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens: a host, and a port or 0 for any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the address. False for every host name except `localhost`."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def address(text: str) -> Address:
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]/\s]+):([0-9]{1,5})", text)
    if not found or int(found[2]) > 65535:
        raise ValueError("must be HOST:PORT, such as 127.0.0.1:50051 or [::1]:50051")
    return Address(found[1].strip("[]"), int(found[2]))


def address_or_off(text: str) -> Address | None:
    return None if text == "off" else address(text)


def origins(text: str) -> frozenset[str]:
    """A list of origins, as browsers send them; each `scheme://host` or `scheme://host:port`, or a single `*`."""
    found = frozenset(filter(None, text.split(",")))
    if found != {"*"} and not all(re.fullmatch(r"https?://[a-z0-9.\[\]:-]+", each) for each in found):
        raise ValueError("must be origins such as https://app.example,http://localhost:3000, or *")
    return found


def path_prefix(text: str) -> str:
    """A path below which something is served; what the HTTP port serves itself is in no such path."""
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", text) or text.split("/")[1] in ("v1", "healthz", "console", ".", ".."):
        raise ValueError("must be a path such as /agentos, and none below /v1, /healthz or /console")
    return text


def networks(text: str) -> tuple[str, ...]:
    """A list of addresses and networks."""
    found = tuple(filter(None, text.split(",")))
    for each in found:
        try:
            ipaddress.ip_network(each)
        except ValueError:
            raise ValueError("must be addresses or networks such as 10.0.0.0/8,192.0.2.1") from None
    return found


def seconds(least: float, most: float) -> Callable[[str], float]:
    """A duration from `least` to `most` seconds, both inclusive."""

    def parse(text: str) -> float:
        found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)|(0)", text)
        value = 0.0 if found and found[3] else float(found[1]) * _UNITS[found[2]] if found else -1.0
        if not least <= value <= most:
            raise ValueError(
                f"must be a duration such as 500ms, 30s, 5m, 24h or 7d, from {show_seconds(least)} "
                f"to {show_seconds(most)}"
            )
        return value

    return parse


def show_seconds(value: float) -> str:
    """A duration in the form that `seconds` parses, in the largest unit that gives a whole number."""
    if value == 0:
        return "0"
    microseconds = round(value * 1_000_000)
    for unit in ("d", "h", "m", "s"):
        whole, rest = divmod(microseconds, round(_UNITS[unit] * 1_000_000))
        if not rest and (unit != "d" or whole > 1):
            return f"{whole}{unit}"
    return f"{timedelta(microseconds=microseconds) / timedelta(milliseconds=1):g}ms"


def number(least: int, most: int) -> Callable[[str], int]:
    """A whole number from `least` to `most`, both inclusive."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", text) or not least <= int(text) <= most:
            raise ValueError(f"must be a whole number from {least} to {most}")
        return int(text)

    return parse


MOST_WORKERS: Final = 64


def workers(text: str) -> int:
    """A number of processes; `auto`: one for each processor that this process may use."""
    if text == "auto":
        return min(processors.available(), MOST_WORKERS)
    try:
        return number(1, MOST_WORKERS)(text)
    except ValueError as error:
        raise ValueError(f"{error}, or auto") from None


def size(least: int, most: int) -> Callable[[str], int]:
    """A number of bytes from `least` to `most`, both inclusive."""

    def parse(text: str) -> int:
        found = re.fullmatch(r"([0-9]{1,15})(|KiB|MiB|GiB)", text)
        value = int(found[1]) * _SIZES[found[2]] if found else -1
        if not least <= value <= most:
            raise ValueError(
                f"must be a number of bytes such as 65536, 64KiB or 4MiB, from {show_size(least)} to {show_size(most)}"
            )
        return value

    return parse


def show_size(value: int) -> str:
    """A size in the form that `size` parses."""
    for unit, factor in reversed(_SIZES.items()):
        if value and value % factor == 0:
            return f"{value // factor}{unit}"
    return str(value)


def switch(text: str) -> bool:
    if text.lower() in ("true", "yes", "on", "1"):
        return True
    if text.lower() in ("false", "no", "off", "0"):
        return False
    raise ValueError("must be true or false")


def one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return text

    return parse


def path(text: str) -> Path:
    if "\0" in text:
        raise ValueError("must be a path")
    return Path(text)


def name(text: str) -> str:
    """The name of a plug."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", text):
        raise ValueError("must be a name of at most 64 letters, digits, dots, dashes and underscores")
    return text


def model(text: str) -> str:
    if not 1 <= len(text) <= 255 or not text.isprintable() or text != text.strip():
        raise ValueError("must be 1 to 255 printable characters, without spaces around them")
    return text
