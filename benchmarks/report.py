"""The report of a benchmark, as a table to read and as JSON to compare."""

from collections.abc import Sequence
from typing import Any

from benchmarks.measure import Measured
from benchmarks.watching import Watched


def record(one: Measured) -> dict[str, Any]:
    """One row of the JSON. `value` is calls per second; for growth, how many times the cost of the small case."""
    growth = one.extra.get("cost_of_growth")
    rate = one.median("calls_per_second")
    row: dict[str, Any] = {
        "name": one.name,
        "value": round(rate, 1) if growth is None else round(growth, 3),
        "unit": "calls/s" if growth is None else f"times the cost at {one.extra['compared_with']}",
        "ratio_to_ceiling": round(one.ratio, 3),
        "p50_ms": round(one.median("p50_ms"), 3),
        "p99_ms": round(one.median("p99_ms"), 3),
        "server_cpu_us": round(one.median("server_cpu_us"), 1),
        "postgres_cpu_us": round(one.median("postgres_cpu_us"), 1),
        "load_cpu_us": round(one.median("load_cpu_us"), 1),
        "spread": round(one.spread, 3),
        "rounds": len(one.samples),
        "response_bytes": one.samples[-1].response_bytes,
    }
    if one.lone is not None:
        row["lone_p50_ms"] = round(one.lone.p50_ms, 3)
    if one.messages_per_call:
        row["messages_per_s"] = round(rate * one.messages_per_call, 1)
    if one.target is not None:
        row["target_ratio"] = one.target
    if one.uncached:
        # CPU seconds of all processes of Postgres: microseconds for each call are milliseconds for a thousand.
        row["postgres_cpu_s_per_1000_calls"] = round(one.median("postgres_cpu_us") / 1000, 4)
        row["postgres_cpu_s_per_1000_calls_without_cache"] = round(one.uncached_median("postgres_cpu_us") / 1000, 4)
        row["value_without_cache"] = round(one.uncached_median("calls_per_second"), 1)
    return row | {key: value for key, value in one.extra.items() if key not in ("cost_of_growth", "compared_with")}


_COLUMNS = (
    "row",
    "calls/s",
    "of ceiling",
    "target",
    "p50 ms",
    "p99 ms",
    "alone ms",
    "server us",
    "postgres us",
    "without cache",
    "spread",
)


def table(measured: Sequence[Measured]) -> str:
    """Markdown, aligned so that a terminal shows it as well."""
    return aligned([_COLUMNS, *map(_cells, measured)])


def _cells(one: Measured) -> Sequence[str]:
    return (
        one.title,
        f"{one.median('calls_per_second'):,.0f}",
        f"{one.ratio:.2f}",
        "" if one.target is None else f"{one.target:.2f}",
        f"{one.median('p50_ms'):.1f}",
        f"{one.median('p99_ms'):.1f}",
        "" if one.lone is None else f"{one.lone.p50_ms:.2f}",
        f"{one.median('server_cpu_us'):,.0f}",
        f"{one.median('postgres_cpu_us'):,.0f}",
        f"{one.uncached_median('postgres_cpu_us'):,.0f}" if one.uncached else "",
        f"{one.spread:.0%}",
    )


def remarks(measured: Sequence[Measured]) -> list[str]:
    """Figures for which the table has no column."""
    found = []
    for one in measured:
        if "load_against_compiled_server_per_s" in one.extra:
            found.append(
                f"The load generator reaches {one.extra['load_against_compiled_server_per_s']:,.0f} calls/s "
                f"against a compiled server in place of the empty handler's {one.median('calls_per_second'):,.0f}."
            )
        if one.messages_per_call > 1:
            found.append(f"{one.title}: {one.median('calls_per_second') * one.messages_per_call:,.0f} messages/s.")
        if one.uncached:
            found.append(
                f"{one.title}: Postgres takes {one.median('postgres_cpu_us') / 1000:.3f} s of CPU for 1,000 calls, "
                f"{one.uncached_median('postgres_cpu_us') / 1000:.3f} s without the cache."
            )
        if "cost_of_growth" in one.extra:
            rates = ", ".join(
                f"{int(size):,}: {rate:,.0f}/s, {one.extra['costs'][size]:.2f} times"
                if size in one.extra.get("costs", {})
                else f"{int(size):,}: {rate:,.0f}/s"
                for size, rate in one.extra["calls_per_s"].items()
            )
            cost, small = one.extra["cost_of_growth"], one.extra["compared_with"]
            found.append(f"{one.title}: {cost:.2f} times the cost at {small} ({rates}).")
    return found


def watched_record(one: Watched) -> dict[str, Any]:
    """One row of the JSON, of those about watchers."""
    figures = {name: round(value, 3) if isinstance(value, float) else value for name, value in one.figures.items()}
    row = {"name": one.name, "value": round(one.value, 3), "unit": one.unit, "target": one.target, "met": one.met}
    return {**row, "rounds": one.rounds, **figures}


def watched_table(watched: Sequence[Watched]) -> str:
    """Markdown, as `table`."""
    return aligned([("row", "found", "", "target"), *[(_title(one), *_found(one)) for one in watched]])


def _title(one: Watched) -> str:
    return f"{one.title} ({one.name})"


def _found(one: Watched) -> Sequence[str]:
    bound = "at least" if one.at_least else "at most"
    return (f"{one.value:,.0f}" if one.value >= 100 else f"{one.value:.2f}", one.unit, f"{bound} {one.target:,g}")


def watched_remarks(watched: Sequence[Watched]) -> list[str]:
    """Further figures, by name."""
    return [
        f"{one.name}: " + ", ".join(f"{name} {_number(value)}" for name, value in one.figures.items()) + "."
        for one in watched
    ]


def _number(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_number, value))
    return f"{value:,.0f}" if value == int(value) or value >= 1000 else f"{value:.2f}"


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table: the first column to the left, the others to the right."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cells[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)),
        ]
        return "| " + " | ".join(padded) + " |"

    return "\n".join([line(lines[0]), line(rule), *map(line, lines[1:])])
