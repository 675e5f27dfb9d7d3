// One session: its head, its tabs, and its live events.

import { get, sessionPath } from "./api.js";
import { Conversation } from "./conversation.js";
import { el, folded, foreign, number, pretty, show, time, word } from "./dom.js";
import { showEvents } from "./events.js";
import { showFiles } from "./files.js";
import { follow } from "./live.js";
import { problem, reasonOf } from "./problems.js";
import { showRuns } from "./runs.js";
import { showUsage } from "./usage.js";

const TABS = { conversation: "Conversation", runs: "Runs", usage: "Usage", files: "Files", events: "Events" };
const READ_AGAIN = 1000; // milliseconds between two reads of what changes with many events
const TRY_AGAIN = 3000; // milliseconds before what the server could not answer is asked for again

/** Whether the same request may succeed later: the server is away, or busy. */
function mayPass(error) {
  return error instanceof TypeError || error.status === 429 || error.status >= 500;
}

export class SessionView {
  /** `connection(text, kind)` shows the state of the line; `changed` is called when approvals may have changed, `read` with the session. */
  constructor(place, id, { connection, changed, read }) {
    Object.assign(this, { place, id, connection, changed, read });
    this.leaving = new AbortController();
    this.tab = "";
    this.head = el("header", { class: "session-head" });
    this.tabs = el("nav", { class: "tabs", "aria-label": "Parts of the session" });
    this.body = el("div", { class: "tab-body" });
    this.due = 0;
    show(place, this.head, this.tabs, this.body);
  }

  close() {
    this.leaving.abort();
    clearTimeout(this.due);
    clearTimeout(this.again);
    this.connection("", "");
  }

  /** Shows a tab, the conversation at a message if `seq` is given. */
  async show(tab, seq) {
    const name = tab in TABS ? tab : "conversation";
    clearTimeout(this.again);
    this.tab = name;
    this.seq = seq;
    this.drawTabs();
    try {
      if (!this.session) {
        this.connection("Loading…", "waiting");
        this.session = await get(sessionPath(this.id), { view: "SESSION_VIEW_FULL" }, this.leaving.signal);
        this.drawHead();
      }
      await this.draw(this.tab);
      if (!this.following) this.follow();
    } catch (error) {
      if (error.name === "AbortError") return;
      this.connection("", "");
      show(this.body, el("p", { class: "empty" }, `This cannot be shown: ${reasonOf(error)}`));
      clearTimeout(this.again);
      if (mayPass(error)) this.again = setTimeout(() => this.show(this.tab, this.seq), TRY_AGAIN);
    }
  }

  async draw(name) {
    const signal = this.leaving.signal;
    const inner = el("div", { class: name === "conversation" ? "conversation" : "page", "aria-busy": "true" });
    this.conversation = null;
    this.live = null;
    show(this.body, inner);
    if (name === "conversation") {
      this.conversation = new Conversation(inner, this.id, signal);
      await this.conversation.open(this.session.version, this.seq);
    } else if (name === "events") {
      const live = await showEvents(inner, this.id, signal);
      if (inner.isConnected) this.live = live; // else another tab was opened meanwhile
    } else {
      await { runs: showRuns, usage: showUsage, files: showFiles }[name](inner, this.id, signal);
    }
    inner.removeAttribute("aria-busy");
  }

  drawTabs() {
    const link = ([name, title]) => el(
      "a", { href: `#/sessions/${encodeURIComponent(this.id)}/${name}`, "aria-current": name === this.tab ? "page" : null }, title,
    );
    show(this.tabs, Object.entries(TABS).map(link));
  }

  drawHead() {
    const session = this.session;
    const status = word(session.status, "SESSION_STATUS_");
    const labels = Object.entries(session.labels ?? {}).map(([key, value]) => foreign(`${key}=${value}`, "span", { class: "label" }));
    const fact = (name, value) => (value ? [el("dt", {}, name), el("dd", {}, value)] : []);
    const open = this.head.querySelector("details")?.open;
    show(
      this.head,
      el("a", { class: "back", href: "#/" }, "All sessions"),
      el("h1", {}, foreign(session.name || session.session_id), " ", el("span", { class: `state ${status}` }, status)),
      el("dl", {},
        fact("Id", foreign(session.session_id, "code")), fact("User", session.user_id && foreign(session.user_id)),
        fact("Agent", session.agent_id && foreign(session.agent_id)), fact("Messages", number(session.message_count)),
        fact("Tokens", session.usage && number(session.usage.total_tokens)), fact("Changed", time(session.update_time)),
        fact("To approve", session.pending_approval_count && number(session.pending_approval_count)),
        fact("Labels", labels.length ? labels : null),
      ),
      folded("Session as JSON", () => pretty(this.session)),
    );
    if (open) this.head.querySelector("details").open = true;
  }

  follow() {
    this.following = true;
    follow(sessionPath(this.id, "/events"), {
      signal: this.leaving.signal,
      handle: (each) => this.take(each),
      state: (state, error) => {
        if (state === "live") this.connection("Live", "live");
        else if (state === "waiting") this.connection(error ? `Reconnecting: ${reasonOf(error)}` : "Reconnecting…", "waiting");
        else this.connection(`No longer live${error ? `: ${reasonOf(error)}` : ""}`, "ended");
      },
    }).catch((error) => problem(error, "The live events broke off"));
  }

  async take({ event, data }) {
    if (event === "snapshot") await this.catchUp(data.session);
    else if (event === "events") this.apply(data.events ?? []);
    else if (event === "deltas") this.conversation?.applyDeltas(data.deltas ?? []);
  }

  /** Reads what was appended between the page and the beginning of the live events. */
  async catchUp(session) {
    if (Number(session.version) <= Number(this.session.version)) return;
    this.session = { ...this.session, ...session };
    this.drawHead();
    await this.draw(this.tab);
  }

  apply(events) {
    for (const each of events) this.conversation?.apply(each);
    this.live?.(events);
    if (events.some((each) => each.type.startsWith("EVENT_TYPE_TOOL_CALL"))) this.changed();
    this.due ||= setTimeout(() => this.readAgain(), READ_AGAIN);
  }

  /** Reads the session, and the tabs that are no log, again after events. */
  async readAgain() {
    this.due = 0;
    try {
      const open = this.body.querySelector("details[open], input:focus");
      this.session = await get(sessionPath(this.id), { view: "SESSION_VIEW_FULL" }, this.leaving.signal);
      this.drawHead();
      this.read(this.session);
      // What the reader has unfolded, or types into, stays as it is.
      if (["runs", "usage", "files"].includes(this.tab) && !open) await this.draw(this.tab);
    } catch (error) {
      problem(error, "The session could not be read");
    }
  }
}
