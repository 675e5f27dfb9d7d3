// The log of a session as it is: events in JSON.

import { get, sessionPath } from "./api.js";
import { el, folded, foreign, pretty, show, time, word } from "./dom.js";
import { problem } from "./problems.js";

const PAGE = 100;
const MOST = 500; // events in the page at a time

function row(event) {
  const about = event.message?.message_id ?? event.run?.run_id ?? event.tool_call?.name ?? event.attachment?.name ?? "";
  const title = [
    el("span", { class: "seq" }, `#${event.seq}`), " ", word(event.type, "EVENT_TYPE_"), " ",
    about ? foreign(about, "code") : null, " ", time(event.create_time),
  ];
  return folded(title, () => pretty(event), { class: "event" });
}

/** Shows the log in `place`, from its first event on. Returns what takes live events, once the end was read. */
export async function showEvents(place, sessionId, signal) {
  const rows = el("div", { class: "events" });
  const more = el("button", { type: "button", class: "quiet" }, "More events");
  const dropped = el("p", { class: "empty", hidden: true }, "Earlier events were taken out of the page; open this tab again to begin anew.");
  let position = "";
  let last = 0;
  const append = (events) => {
    for (const each of events) {
      if (Number(each.seq) <= last) continue;
      last = Number(each.seq);
      rows.append(row(each));
    }
    while (rows.children.length > MOST) {
      rows.firstChild.remove();
      dropped.hidden = false;
    }
  };
  const load = async () => {
    more.disabled = true;
    try {
      const answer = await get(sessionPath(sessionId, "/log"), { position, page_size: PAGE }, signal);
      position = answer.position;
      append(answer.events ?? []);
      more.hidden = !answer.more;
    } finally {
      more.disabled = false;
    }
  };
  more.addEventListener("click", () => load().catch((error) => problem(error, "Events could not be read")));
  await load();
  show(place, dropped, rows, more);
  return (events) => {
    if (!more.hidden || !events.length) return;
    // What came while a page was read is read, too: events of a log have no gaps.
    if (Number(events[0].seq) > last + 1) load().catch((error) => problem(error, "Events could not be read"));
    else append(events);
  };
}
