// Runs of a session on a timeline, with the tool calls of each.

import { get, sessionPath } from "./api.js";
import { approvalCard } from "./approvals.js";
import { duration, el, folded, foreign, pretty, show, svg, time, word } from "./dom.js";
import { problem } from "./problems.js";

const WIDTH = 600;

function at(value) {
  return value ? Date.parse(value) : NaN;
}

/** Seconds that a run has worked, or NaN where it never started. */
export function runSeconds(run) {
  return ((run.end_time ? at(run.end_time) : Date.now()) - at(run.start_time)) / 1000;
}

function bar(run, from, until) {
  const x = (milliseconds) => ((milliseconds - from) / Math.max(1, until - from)) * WIDTH;
  const end = at(run.end_time) || until;
  const started = at(run.start_time) || end;
  const created = at(run.create_time);
  const piece = (a, b, kind) => svg("rect", { x: x(a), y: 4, width: Math.max(2, x(b) - x(a)), height: 12, rx: 2, class: kind });
  return svg(
    "svg", { viewBox: `0 0 ${WIDTH} 20`, class: "timeline", preserveAspectRatio: "none", "aria-hidden": "true" },
    started > created ? piece(created, started, "waited") : null,
    run.start_time ? piece(started, end, word(run.status, "RUN_STATUS_")) : null,
  );
}

function toolCallRow(call, signal) {
  const status = word(call.status, "TOOL_CALL_STATUS_");
  if (status === "pending" && call.requires_approval) return approvalCard(call, () => {}, signal);
  const title = [foreign(call.name, "code"), ` ${status} `, time(call.create_time)];
  return folded(title, () => pretty(call), { class: status === "failed" ? "tool failed" : "tool" });
}

async function showToolCalls(place, sessionId, query, signal) {
  const answer = await get(sessionPath(sessionId, "/toolCalls"), { page_size: 100, ...query }, signal);
  const calls = answer.tool_calls ?? [];
  const more = answer.next_page_token ? el("p", { class: "empty" }, "The first 100 tool calls.") : null;
  show(place, calls.length ? calls.map((each) => toolCallRow(each, signal)) : el("p", { class: "empty" }, "No tool calls."), more);
}

function runRow(run, sessionId, from, until, signal) {
  const status = word(run.status, "RUN_STATUS_");
  const inner = el("div", { class: "run-inner" });
  const open = (event) => {
    if (!event.target.open || event.target !== inner.parentNode || inner.firstChild) return;
    const calls = el("div");
    inner.append(calls, folded("Run as JSON", () => pretty(run)));
    showToolCalls(calls, sessionId, { run_id: run.run_id }, signal).catch((error) => problem(error, "Tool calls could not be read"));
  };
  const worked = run.start_time ? duration(runSeconds(run)) : "";
  const failure = run.error ? el("p", { class: "gone" }, foreign([run.error.code, run.error.message].filter(Boolean).join(": "))) : null;
  const why = run.end_reason ? ` (${word(run.end_reason, "RUN_END_REASON_")})` : "";
  return el(
    "details", { class: "run", toggle: open },
    el(
      "summary", {},
      el("span", { class: "run-line" },
        el("span", { class: `state ${status}` }, status + why), foreign(run.agent_id || run.run_id), run.model ? foreign(run.model, "small") : null,
        time(run.create_time), el("span", { class: "number" }, worked)),
      bar(run, from, until), failure,
    ),
    inner,
  );
}

/** Shows the runs of a session in `place`. */
export async function showRuns(place, sessionId, signal) {
  const rows = el("div", { class: "runs" });
  const scale = el("p", { class: "scale", "aria-hidden": "true" });
  const more = el("button", { type: "button", class: "quiet", hidden: true }, "More runs");
  const runs = [];
  let token = "";
  const load = async () => {
    more.disabled = true;
    try {
      const answer = await get(sessionPath(sessionId, "/runs"), { page_size: 50, page_token: token }, signal);
      runs.push(...(answer.runs ?? []));
      token = answer.next_page_token ?? "";
      const from = Math.min(...runs.map((each) => at(each.create_time)));
      const until = Math.max(...runs.map((each) => at(each.end_time) || Date.now()));
      if (runs.length) show(scale, ...[from, until].map((each) => time(new Date(each).toISOString())));
      rows.replaceChildren(...runs.map((each) => runRow(each, sessionId, from, until, signal)));
      more.hidden = !token;
    } finally {
      more.disabled = false;
    }
  };
  more.addEventListener("click", () => load().catch((error) => problem(error, "Runs could not be read")));
  await load();
  const all = el("div");
  const open = (event) => {
    if (event.target.open && event.target === all.parentNode && !all.firstChild) {
      showToolCalls(all, sessionId, {}, signal).catch((error) => problem(error, "Tool calls could not be read"));
    }
  };
  const calls = el("details", { class: "all-calls", toggle: open }, el("summary", {}, "All tool calls of the session"), all);
  show(place, runs.length ? [scale, rows, more] : el("p", { class: "empty" }, "No runs."), calls);
}
