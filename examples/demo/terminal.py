"""Text on a terminal: its width in columns, clipping and wrapping, and colours."""

import os
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterator
from typing import TextIO

_JOINER = "\u200d"
_SKIN_TONES = range(0x1F3FB, 0x1F400)
_WIDEST = 110
_BAR = 30
"""Columns of a bar."""

STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "blue": "34", "cyan": "36"}


def printable(text: str) -> str:
    """One line that cannot move the cursor or turn the reading direction of what follows."""
    folded = " ".join(text.split())
    return "".join(c for c in folded if unicodedata.category(c) not in ("Cc", "Cf", "Co", "Cs") or c == _JOINER)


def width(text: str) -> int:
    """Columns: two for wide characters, none for combining ones; what a joiner glues on takes no room of its own."""
    return sum(columns for _, columns in _cells(text))


def _cells(text: str) -> Iterator[tuple[str, int]]:
    joined = False
    for character in text:
        if joined or ord(character) in _SKIN_TONES or unicodedata.category(character) in ("Mn", "Me", "Cf"):
            columns = 0
        else:
            columns = 2 if unicodedata.east_asian_width(character) in "WF" else 1
        joined = character == _JOINER
        yield character, columns


def clip(text: str, columns: int) -> str:
    """At most so wide; what was cut off leaves an ellipsis."""
    if width(text) <= columns:
        return text
    kept, used = [], 0
    for character, wide in _cells(text):
        if used + wide > columns - 1:
            break
        kept.append(character)
        used += wide
    return "".join(kept) + "…"


def pad(text: str, columns: int, *, right: bool = False) -> str:
    """Exactly so wide, unless it is wider already."""
    room = " " * max(0, columns - width(text))
    return room + text if right else text + room


def wrap(text: str, columns: int, most: int) -> list[str]:
    """Lines of at most that width, broken at spaces, or anywhere in a word that fills a line; the last one clipped."""
    lines, line, used = [], "", 0
    for word in text.split(" "):
        wide = width(word)
        if line and used + 1 + wide <= columns:
            line, used = f"{line} {word}", used + 1 + wide
            continue
        if line and wide <= columns:
            lines.append(line)
            line, used = word, wide
            continue
        line = f"{line} {word}" if line else word
        while width(line) > columns:
            head = _head(line, columns)
            lines.append(head)
            line = line[len(head) :].lstrip(" ")
        used = width(line)
    lines.append(line)
    if len(lines) <= most:
        return lines
    return [*lines[: most - 1], clip(lines[most - 1] + "…", columns)]


def _head(text: str, columns: int) -> str:
    """The longest beginning that fits; at least one character."""
    used = 0
    for index, (_, wide) in enumerate(_cells(text)):
        if used + wide > columns and index:
            return text[:index]
        used += wide
    return text


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


class Screen:
    """Prints; colours and progress only on a terminal (and not where NO_COLOR asks for none)."""

    def __init__(self, out: TextIO = sys.stdout) -> None:
        self._out = out
        self.live = out.isatty()
        self._colour = self.live and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self.columns = min(_WIDEST, max(60, shutil.get_terminal_size().columns))
        self._progress = False

    def paint(self, text: str, *styles: str) -> str:
        if not self._colour or not styles:
            return text
        return f"\x1b[{';'.join(STYLES[style] for style in styles)}m{text}\x1b[0m"

    def line(self, text: str = "") -> None:
        self.clear_progress()
        print(text.rstrip(), file=self._out, flush=True)

    def title(self, text: str, aside: str = "") -> None:
        self.line()
        self.line(f"{self.paint(text, 'bold')}  {self.paint(aside, 'dim')}")

    def progress(self, text: str) -> None:
        """Prints a line that the next one overwrites; prints nothing without a terminal."""
        if self.live:
            self._out.write("\r\x1b[K  " + clip(text, self.columns - 2))
            self._out.flush()
            self._progress = True

    def progress_of(self, what: str) -> Callable[[int, int], None]:
        """A bar for something that has so many bytes."""

        def show(done: int, total: int) -> None:
            full = _BAR * done // max(total, 1)
            self.progress(f"[{'=' * full}{' ' * (_BAR - full)}] {100 * done // max(total, 1):>3} %  {printable(what)}")

        return show

    def clear_progress(self) -> None:
        if self._progress:
            self._out.write("\r\x1b[K")
            self._progress = False


class Columns:
    """Two things side by side."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self.left = min(52, screen.columns // 2)
        """Columns of the left side."""

    def heads(self, left: str, right: str) -> None:
        self._screen.line(self._screen.paint(f"  {pad(f'       {left}', self.left)}         {right}", "dim"))

    def line(self, left: str, right: str = "", *styles: str) -> None:
        """The styles are the right side's."""
        screen = self._screen
        left = pad(clip(left, self.left), self.left)
        screen.line(f"  {left}  {screen.paint(clip(right, screen.columns - self.left - 4), *styles)}")

    def progress(self, right: str) -> None:
        """Overwrites itself until the next line."""
        self._screen.progress(pad("", self.left) + right)
