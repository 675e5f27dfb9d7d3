"""What `make bench` writes: the form of its JSON is read by others, the ratios are its point."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from benchmarks import chart, disk, growth, peers, report, searching, watching, web, workers
from benchmarks.load import Sample
from benchmarks.measure import Measured, checked
from benchmarks.rows import rows

CONVERSATIONS = Path(__file__).parents[2] / "examples/demo/conversations.jsonl"


def sample(rate: float, p50: float = 2.0, codes: dict[str, int] | None = None) -> Sample:
    return Sample(rate, p50, 9.0, 300.0, 80.0, 25.0, codes or {"OK": 10}, "first words", 320)


def measured(name: str = "append_10", **extra: object) -> Measured:
    rates, ceilings = (900.0, 1000.0, 2000.0), (1000.0, 2000.0, 4000.0)
    one = Measured(name, "AppendMessages(10)", [*map(sample, rates)], [*map(sample, ceilings)], messages_per_call=10)
    one.extra.update(extra)
    return one


def test_all_rows_are_there_under_their_names() -> None:
    assert {row.name for row in rows(CONVERSATIONS)} == {
        *("get_session", "create_session", "append_1", "append_10", "append_100"),
        *("list_messages_50", "get_context", "list_sessions_20", "update_session", "chat_mix"),
        *("pipe_get_session", "pipe_create_session", "pipe_append_1", "pipe_chat_mix"),
    }
    assert set(growth.NAMES) == {
        *("growth_append_100k", "growth_get_100k", "growth_list_100k", "growth_list_sessions"),
    }
    assert (growth.STATE, disk.NAME, workers.NAME) == ("state_growth", "bytes_per_message", "workers_2")
    assert set(watching.NAMES) == {"watch_deliveries", "watch_latency_p99", "watch_stalled", "idle_watcher"}
    assert web.NAMES == ("http_get_session", "idle_sse")
    assert searching.NAMES == ("search_1m", "search_lag", "search_bytes")
    assert set(peers.ROWS) <= {row.name for row in rows(CONVERSATIONS)}


def test_a_row_of_the_json_holds_medians_and_the_ratio_of_each_round() -> None:
    row = report.record(measured())
    assert (row["name"], row["value"], row["unit"]) == ("append_10", 1000.0, "calls/s")
    assert row["ratio_to_ceiling"] == 0.5  # the median of 0.9, 0.5 and 0.5, not 1000 of 2000
    assert (row["p50_ms"], row["p99_ms"], row["server_cpu_us"]) == (2.0, 9.0, 300.0)
    assert row["messages_per_s"] == 10_000.0
    assert row["spread"] == 1.1


def test_growth_is_reported_as_a_multiple_of_the_cost_of_the_small_case() -> None:
    grown = measured("growth_get_100k", cost_of_growth=1.0512, compared_with="10 messages", calls_per_s={"10": 3.0})
    row = report.record(grown)
    assert (row["value"], row["unit"]) == (1.051, "times the cost at 10 messages")
    assert row["calls_per_s"] == {"10": 3.0}
    assert "1.05 times the cost at 10 messages" in report.remarks([grown])[-1]


def test_savings_of_the_cache_are_reported_where_they_were_measured() -> None:
    one = measured("get_session")
    one.uncached = [Sample(400.0, 4.0, 9.0, 300.0, postgres, 25.0, {"OK": 10}, "", 320) for postgres in (200.0, 160.0)]
    row = report.record(one)
    assert row["postgres_cpu_s_per_1000_calls"] == 0.08
    assert row["postgres_cpu_s_per_1000_calls_without_cache"] == 0.18
    assert row["value_without_cache"] == 400.0
    head, _, line, plain = report.table([one, measured()]).splitlines()
    column = [cell.strip() for cell in head.split("|")].index("without cache")
    assert line.split("|")[column].strip() == "180"
    assert plain.split("|")[column].strip() == ""
    assert "0.080 s of CPU for 1,000 calls, 0.180 s without the cache" in report.remarks([one])[-1]
    assert "postgres_cpu_s_per_1000_calls" not in report.record(measured())


def test_the_table_is_markdown_with_a_line_for_each_row() -> None:
    lines = report.table([measured(), measured("other")]).splitlines()
    assert len(lines) == 4
    assert len({len(line) for line in lines}) == 1
    assert "1,000" in lines[2]


def test_failed_calls_are_no_result() -> None:
    assert checked("x", sample(1.0)).calls_per_second == 1.0
    with pytest.raises(RuntimeError, match=r"x: calls failed: \{'UNAVAILABLE': 1\}; first: first words"):
        checked("x", sample(1.0, codes={"OK": 9, "UNAVAILABLE": 1}))


def test_the_chart_is_an_image_that_names_each_row() -> None:
    root = ElementTree.fromstring(chart.svg([measured(), measured("ceiling")], "a < b & c"))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts.count("AppendMessages(10)") == 2
    assert "a < b & c" in texts


def test_peers_are_compared_with_what_was_measured_of_sessiond() -> None:
    ours = {operation: measured(row) for operation, (row, _) in peers.OPERATIONS.items()}
    comparison = peers.Comparison(ours, [peers.Result("Peer", "get", 250.0, 1.0, 2.0, 900.0)])
    assert comparison.records()[0]["sessiond_times"] == 4.0
    assert "250 (4 x)" in comparison.table()


def test_a_message_of_the_disk_row_has_the_size_that_the_row_names() -> None:
    assert disk.message().ByteSize() == disk.MESSAGE_BYTES
