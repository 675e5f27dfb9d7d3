// The list of sessions: filters, search, and pages as one scrolls.

import { ApiError, get, post } from "./api.js";
import { el, foreign, number, time, word } from "./dom.js";
import { clearProblems, problem } from "./problems.js";

const PAGE = 50;
const MOST = 1000; // sessions in the page; who looks for one among more narrows the list
const STATUSES = ["CREATED", "ACTIVE", "SUSPENDED", "ENDED"];

function field(label, attributes = {}) {
  const input = el("input", { autocomplete: "off", spellcheck: "false", ...attributes });
  return [el("label", {}, label, " ", input), input];
}

function select(label, name, options) {
  const input = el("select", { "aria-label": name }, options.map(([value, text]) => el("option", { value }, text)));
  return [el("label", {}, label, " ", input), input];
}

/** The address of a session in the console. */
export function sessionLink(id, seq = 0) {
  return `#/sessions/${encodeURIComponent(id)}${seq ? `/conversation/${seq}` : ""}`;
}

function counts(session) {
  const waiting = session.pending_approval_count ? `, ${session.pending_approval_count} to approve` : "";
  return `${number(session.message_count)} messages${session.live_run_id ? ", running" : ""}${waiting}`;
}

function row(session) {
  const status = word(session.status, "SESSION_STATUS_");
  const element = el(
    "a", { class: "session", href: sessionLink(session.session_id) },
    foreign(session.name || session.session_id, "span", { class: "name" }),
    el("span", { class: "line" }, el("span", { class: `state ${status}` }, status), el("span", {}, counts(session)), time(session.update_time)),
    el("span", { class: "line" }, session.user_id ? foreign(session.user_id) : null, session.agent_id ? foreign(session.agent_id) : null),
  );
  element.dataset.id = session.session_id;
  element.dataset.version = session.version ?? "";
  return element;
}

function snippet(found) {
  const segments = (found.segments ?? []).map((each) => (each.hit ? el("mark", {}, each.text) : each.text));
  return el("span", { class: "snippet", dir: "auto" }, found.begins_within ? "…" : null, segments, found.ends_within ? "…" : null);
}

function messageHit(hit) {
  const title = el("span", { class: "line" }, word(hit.role, "ROLE_") || "tool call", foreign(hit.session_id), time(hit.create_time));
  const element = el("a", { class: "session", href: sessionLink(hit.session_id, Number(hit.seq ?? 0)) }, title, (hit.snippets ?? []).map(snippet));
  element.dataset.id = `${hit.session_id}/${hit.seq}`;
  return element;
}

/** `team=red, tier=gold` as an object. Throws for what is no such list. */
export function labelsOf(text) {
  const found = {};
  for (const each of text.split(",").map((piece) => piece.trim()).filter(Boolean)) {
    const at = each.indexOf("=");
    if (at < 1) throw new Error("labels are written as key=value, with commas between");
    found[each.slice(0, at).trim()] = each.slice(at + 1).trim();
  }
  return found;
}

export class SessionList {
  constructor(place) {
    const [queryLabel, query] = field("Search", { type: "search", id: "search", maxlength: "1024", placeholder: "name, id or words" });
    const [whereLabel, where] = select("in", "Search in", [["sessions", "sessions"], ["messages", "messages"], ["names", "names and ids"]]);
    const [statusLabel, status] = select("Status", "Status", [["", "any"], ...STATUSES.map((each) => [each, each.toLowerCase()])]);
    const [userLabel, user] = field("User");
    const [agentLabel, agent] = field("Agent");
    const [labelsLabel, labels] = field("Labels", { placeholder: "team=red, tier=gold" });
    Object.assign(this, { query, where, status, user, agent, labels });
    this.items = el("nav", { class: "sessions", "aria-label": "Found sessions" });
    this.note = el("p", { class: "empty", role: "status" });
    this.more = el("button", { type: "button", class: "quiet", hidden: true, click: () => this.load() }, "More sessions");
    const form = el(
      "form", { class: "search", role: "search" }, queryLabel, whereLabel,
      el("details", { class: "filters" }, el("summary", {}, "Filters"), statusLabel, userLabel, agentLabel, labelsLabel),
      el("button", { type: "submit" }, "Find"),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      clearProblems();
      this.restart();
    });
    status.addEventListener("change", () => this.restart());
    this.scroller = el("div", { class: "list-scroller", scroll: () => this.onScroll() }, this.items, this.note, this.more);
    place.replaceChildren(form, this.scroller);
    this.turn = 0;
    this.token = "";
  }

  onScroll() {
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    if (!this.more.hidden && !this.more.disabled && scrollHeight - scrollTop - clientHeight < 300) this.load();
  }

  /** Reads the list from its first page. */
  async restart() {
    this.turn += 1;
    this.token = "";
    this.items.replaceChildren();
    this.searched = this.query.value.trim();
    this.found = this.where.value;
    this.note.textContent = "";
    await this.load();
  }

  filter() {
    const found = { user_id: this.user.value, agent_id: this.agent.value, labels: labelsOf(this.labels.value) };
    if (this.status.value) found.statuses = [`SESSION_STATUS_${this.status.value}`];
    return found;
  }

  async load() {
    const turn = this.turn;
    this.more.disabled = true;
    try {
      const { rows, token, note } = await this.page();
      if (turn !== this.turn) return;
      const known = new Set([...this.items.children].map((each) => each.dataset.id));
      for (const each of rows) {
        if (!known.has(each.dataset.id)) this.items.append(each);
        known.add(each.dataset.id);
      }
      const full = this.items.children.length >= MOST;
      this.token = token ?? "";
      this.more.hidden = !this.token || full;
      const nothing = !this.token && !this.items.firstChild ? "Nothing found." : "";
      this.note.textContent = [note, nothing, full ? `The first ${MOST}; narrow the search.` : ""].filter(Boolean).join(" ");
      this.mark();
    } catch (error) {
      problem(error, "The sessions could not be read");
    } finally {
      this.more.disabled = false;
    }
  }

  async page() {
    const filter = this.filter();
    if (!this.searched || this.found === "names") return this.listed(filter);
    const body = { query: this.searched, filter, page_size: PAGE, page_token: this.token };
    try {
      if (this.found === "messages") {
        const answer = await post("/v1/messages:search", body);
        return { rows: (answer.hits ?? []).map(messageHit), token: answer.next_page_token, note: partial(answer) };
      }
      const answer = await post("/v1/sessions:search", body);
      const rows = (answer.hits ?? []).map((each) => row(each.session));
      return { rows: [...(await this.byId()), ...rows], token: answer.next_page_token, note: partial(answer) };
    } catch (error) {
      if (!(error instanceof ApiError) || error.reason !== "SEARCH_OFF") throw error;
      this.found = "names";
      return { ...(await this.listed(filter)), note: "Search is off on this server: these have the words in their name, or as their id." };
    }
  }

  async listed({ labels, ...filter }) {
    const named = Object.fromEntries(Object.entries(labels).map(([key, value]) => [`labels[${key}]`, value]));
    const query = { ...filter, ...named, name_contains: this.searched, order_by: "SESSION_ORDER_UPDATE_TIME_DESC", page_size: PAGE, page_token: this.token };
    const answer = await get("/v1/sessions", query);
    return { rows: [...(await this.byId()), ...(answer.sessions ?? []).map(row)], token: answer.next_page_token };
  }

  /** The session whose id was typed, on the first page. */
  async byId() {
    if (!this.searched || this.token || this.searched.length > 255) return [];
    const answer = await post("/v1/sessions:batchGet", { session_ids: [this.searched] }).catch((error) => {
      if (error.status === 400) return {}; // what was typed can be no id
      throw error;
    });
    return (answer.sessions ?? []).map(row);
  }

  /** Brings what the reader sees up to date: new and changed sessions of the first page, where nothing was searched. */
  async refresh() {
    if (this.searched || this.more.disabled || this.scroller.scrollTop > 100) return;
    const turn = this.turn;
    const { rows } = await this.listed(this.filter());
    if (turn !== this.turn || this.searched) return;
    const known = new Map([...this.items.children].map((each) => [each.dataset.id, each]));
    const focused = document.activeElement?.dataset?.id;
    for (const each of rows.reverse()) {
      const old = known.get(each.dataset.id);
      if (old?.dataset.version === each.dataset.version) continue;
      old?.remove();
      this.items.prepend(each);
      if (focused === each.dataset.id) each.focus();
    }
    while (this.items.children.length > MOST) this.items.lastChild.remove();
    if (this.items.firstChild) this.note.textContent = "";
    this.mark();
  }

  /** Brings the row of a session up to date, where it is in the list. */
  update(session) {
    const old = [...this.items.children].find((each) => each.dataset.id === session.session_id);
    if (!old || Number(old.dataset.version) > Number(session.version)) return;
    const focused = document.activeElement === old;
    const element = row(session);
    old.replaceWith(element);
    if (focused) element.focus();
    this.mark();
  }

  /** Marks the session that is open. */
  mark(id = this.open) {
    this.open = id;
    for (const each of this.items.children) {
      if (each.dataset.id === id) each.setAttribute("aria-current", "true");
      else each.removeAttribute("aria-current");
    }
  }
}

function partial(answer) {
  return answer.partial ? "Not everything was compared: there may be more." : "";
}
