// The console: which view the address asks for, the key, and what is read again now and then.

import { get, hasKey, signIn, whenUnauthenticated } from "./api.js";
import { countApprovals, showApprovals } from "./approvals.js";
import { el, show } from "./dom.js";
import { clearProblems, problem, reasonOf } from "./problems.js";
import { SessionView } from "./session.js";
import { SessionList } from "./sessions.js";

const REFRESH = 10000; // milliseconds between two reads of the list and of the number of approvals

const byId = (id) => document.getElementById(id);
const main = byId("main");
const list = new SessionList(byId("list"));
let view = null; // the open SessionView
let readInbox = null; // adds what has come to the inbox, while it is open
let leaving = new AbortController(); // of the view that is no session

function connection(text, kind) {
  byId("connection").textContent = text;
  byId("connection").className = `connection ${kind}`;
}

/** `#/sessions/ID/TAB/SEQ` as pieces. An address that is none opens the list. */
function place() {
  try {
    return location.hash.slice(2).split("/").map(decodeURIComponent);
  } catch {
    return [""];
  }
}

async function refreshApprovals() {
  const count = await countApprovals();
  byId("approval-count").textContent = count;
  byId("approval-count").hidden = count === "0";
}

const changed = () => refreshApprovals().catch((error) => problem(error, "The approvals could not be counted"));

async function route() {
  const [kind, id, tab, seq] = place();
  leaving.abort();
  leaving = new AbortController();
  readInbox = null;
  for (const each of document.querySelectorAll("[data-nav]")) {
    if ((kind === "approvals") === (each.dataset.nav === "approvals")) each.setAttribute("aria-current", "page");
    else each.removeAttribute("aria-current");
  }
  byId("panes").className = `panes ${kind || "sessions"}-open`;
  if (kind === "sessions" && id) {
    if (view?.id !== id) {
      view?.close();
      view = new SessionView(main, id, { connection, changed, read: (session) => list.update(session) });
      main.scrollTop = 0;
    }
    list.mark(id);
    document.title = `${id.slice(0, 60)} · sessiond`;
    await view.show(tab, /^[1-9]\d{0,15}$/.test(seq ?? "") ? Number(seq) : 0);
    return;
  }
  view?.close();
  view = null;
  list.mark("");
  document.title = "sessiond console";
  if (kind === "approvals") {
    const { signal } = leaving;
    const read = await showApprovals(main, changed, signal);
    if (!signal.aborted) readInbox = read;
  } else {
    show(main, el("p", { class: "empty" }, "Choose a session."));
  }
}

function askForKey() {
  if (!byId("sign-in").hidden) return;
  view?.close();
  view = null;
  if (hasKey()) problem(new Error("the server does not accept this key"), "No access");
  signIn("", "");
  byId("sign-in").hidden = false;
  byId("panes").hidden = true;
  byId("sign-out").hidden = true;
  connection("", "");
  main.replaceChildren();
  list.items.replaceChildren();
  byId("approval-count").hidden = true;
  byId("key").focus();
}

async function open() {
  byId("panes").hidden = false;
  byId("sign-out").hidden = !hasKey();
  await Promise.all([list.restart(), route(), refreshApprovals()]);
}

byId("sign-in").addEventListener("submit", async (event) => {
  event.preventDefault();
  const key = byId("key").value.trim();
  const database = byId("database").value.trim();
  byId("key").value = "";
  clearProblems();
  signIn(key, database);
  byId("sign-in").hidden = true;
  try {
    await get("/v1/sessions", { page_size: 1 });
    await open();
  } catch (error) {
    if (error.status === 401) return;
    byId("sign-in").hidden = false;
    problem(error, "The console could not be opened");
  }
});

byId("sign-out").addEventListener("click", () => {
  signIn("", "");
  location.reload();
});

whenUnauthenticated(askForKey);
window.addEventListener("hashchange", () => route().catch((error) => problem(error, "This cannot be shown")));
document.addEventListener("keydown", (event) => {
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement?.tagName ?? "");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    list.query.focus();
  } else if ((event.key === "ArrowDown" || event.key === "ArrowUp") && list.items.contains(document.activeElement)) {
    event.preventDefault();
    const next = event.key === "ArrowDown" ? "nextElementSibling" : "previousElementSibling";
    document.activeElement[next]?.focus();
  }
});

async function refresh() {
  if (document.hidden || !byId("sign-in").hidden) return;
  try {
    await Promise.all([list.refresh(), refreshApprovals(), readInbox?.()]);
    if (!view) connection("", "");
  } catch (error) {
    // The next turn tries again. The view of a session tells of its own line.
    if (!view && error.name !== "AbortError") connection(`Not up to date: ${reasonOf(error)}`, "waiting");
  }
}

(async () => {
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, REFRESH));
    await refresh();
  }
})();

open().catch((error) => error.status === 401 || problem(error, "The console could not be opened"));
