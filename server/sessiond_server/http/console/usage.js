// Tokens and times of a session, as numbers and small charts.

import { get, sessionPath } from "./api.js";
import { duration, el, number, seconds, show, svg, word } from "./dom.js";
import { runSeconds } from "./runs.js";

const MOST_RUNS = 50;

/** Horizontal bars: `rows` of {name, value, shown, kind}. The numbers stand beside them, so the bars need no words. */
function bars(title, rows) {
  const most = Math.max(1e-9, ...rows.map((each) => each.value));
  const line = (each) => el(
    "tr", {},
    el("th", { scope: "row" }, each.name),
    el("td", { class: "number" }, each.shown),
    el("td", { class: "bar" }, svg(
      "svg", { viewBox: "0 0 200 12", preserveAspectRatio: "none", "aria-hidden": "true" },
      svg("rect", { x: 0, y: 1, height: 10, rx: 2, width: Math.max(each.value ? 2 : 0, (each.value / most) * 200), class: each.kind ?? "plain" }),
    )),
  );
  return el("table", { class: "bars" }, el("caption", {}, title), el("tbody", {}, rows.map(line)));
}

/** Columns, one for each run, in the order of their begin. */
function columns(title, runs) {
  const values = runs.map(runSeconds);
  const most = Math.max(1e-9, ...values);
  const width = 600 / Math.max(12, runs.length);
  const column = (run, index) => {
    const height = Math.max(1, (values[index] / most) * 96);
    const text = `${run.run_id}: ${duration(values[index])}, ${word(run.status, "RUN_STATUS_")}`;
    return svg(
      "rect", { x: index * width + 1, y: 100 - height, width: width - 2, height, class: word(run.status, "RUN_STATUS_") },
      svg("title", {}, text),
    );
  };
  const label = `${title}: ${runs.length} runs, the longest ${duration(most)}`;
  return el(
    "figure", { class: "columns" },
    el("figcaption", {}, `${title} (longest ${duration(most)})`),
    svg("svg", { viewBox: "0 0 600 100", role: "img", "aria-label": label }, runs.map(column)),
  );
}

/** Shows usage and latency of a session in `place`. */
export async function showUsage(place, sessionId, signal) {
  const [metrics, listed] = await Promise.all([
    get(sessionPath(sessionId, "/metrics"), {}, signal),
    get(sessionPath(sessionId, "/runs"), { page_size: MOST_RUNS }, signal),
  ]);
  const usage = metrics.usage ?? {};
  const tokens = ["input", "output", "reasoning", "cached", "total"].map((name) => {
    const value = Number(usage[`${name}_tokens`] ?? 0);
    return { name, value, shown: number(value) };
  });
  const runs = metrics.runs ?? {};
  const outcomes = ["queued", "running", "completed", "failed", "cancelled"].map((name) => {
    const value = Number(runs[`${name}_count`] ?? 0);
    return { name, value, shown: number(value), kind: name };
  });
  const times = [["average", runs.average_duration], ["95 of 100 within", runs.p95_duration]].map(([name, text]) => {
    const value = seconds(text);
    return { name, value, shown: text ? duration(value) : "—" };
  });
  const ended = (listed.runs ?? []).filter((each) => each.start_time).sort((a, b) => Number(a.seq) - Number(b.seq));
  show(
    place,
    el("p", {}, `${number(metrics.message_count)} messages, ${number(metrics.request_count)} requests, ${number(metrics.run_count)} runs; active for ${duration(seconds(metrics.active_duration))}.`),
    bars("Tokens", tokens),
    bars("Runs", outcomes),
    bars("How long a run takes", times),
    ended.length ? columns("Duration of runs", ended) : null,
  );
}
