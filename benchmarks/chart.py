"""The report as a picture: one bar for each row, as a part of the ceiling."""

from collections.abc import Sequence
from html import escape

from benchmarks.measure import Measured

_LEFT, _WIDTH, _BAR, _GAP, _TOP = 250, 560, 22, 12, 74
_INK, _SOFT, _GRID = "#1f2933", "#616e7c", "#e4e7eb"
_CEILING, _MET, _MISSED, _PLAIN = "#9aa5b1", "#2f7d5b", "#c2571a", "#3b6ea8"


def svg(measured: Sequence[Measured], subtitle: str) -> str:
    """Rates as a part of what an empty handler reaches with answers of the same size; marks where a target is set."""
    height = _TOP + len(measured) * (_BAR + _GAP) + 46
    width = _LEFT + _WIDTH + 210
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="system-ui, sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        _text(16, 28, "sessiond beside an empty gRPC handler", size=18, weight="600"),
        _text(16, 48, subtitle, colour=_SOFT),
    ]
    bottom = height - 40
    for part in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = _LEFT + part * _WIDTH
        out.append(f'<line x1="{x}" y1="{_TOP - 10}" x2="{x}" y2="{bottom}" stroke="{_GRID}"/>')
        out.append(_text(x, bottom + 18, f"{part:.0%}", colour=_SOFT, anchor="middle"))
    for number, one in enumerate(measured):
        out += _row(one, _TOP + number * (_BAR + _GAP))
    out.append(_text(_LEFT + _WIDTH, bottom + 34, "of the ceiling's rate", colour=_SOFT, anchor="end"))
    return "\n".join([*out, "</svg>", ""])


def _row(one: Measured, y: float) -> list[str]:
    length = min(1.0, one.ratio) * _WIDTH
    colour = _PLAIN
    if one.name == "ceiling":
        colour = _CEILING
    elif one.target is not None:
        colour = _MET if one.ratio >= one.target else _MISSED
    rate = f"{one.median('calls_per_second'):,.0f}/s · p99 {one.median('p99_ms'):.0f} ms"
    out = [
        _text(_LEFT - 10, y + 16, one.title, anchor="end"),
        f'<rect x="{_LEFT}" y="{y}" width="{length:.1f}" height="{_BAR}" rx="2" fill="{colour}"/>',
        _text(_LEFT + _WIDTH + 12, y + 16, rate, colour=_SOFT),
        _text(_LEFT + length + 6, y + 16, f"{one.ratio:.2f}", weight="600")
        if length < _WIDTH - 40
        else _text(_LEFT + length - 6, y + 16, f"{one.ratio:.2f}", colour="#ffffff", weight="600", anchor="end"),
    ]
    if one.target is not None:
        x = _LEFT + one.target * _WIDTH
        out.append(f'<line x1="{x}" y1="{y - 4}" x2="{x}" y2="{y + _BAR + 4}" stroke="{_INK}" stroke-width="2"/>')
    return out


def _text(
    x: float, y: float, text: str, *, size: int = 13, colour: str = _INK, weight: str = "400", anchor: str = "start"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" font-weight="{weight}" '
        f'text-anchor="{anchor}">{escape(text)}</text>'
    )
