// Tool calls that wait for a person.

import { get, post, sessionPath } from "./api.js";
import { el, folded, foreign, long, pretty, show, speak, time } from "./dom.js";
import { problem } from "./problems.js";

function argumentsOf(call) {
  const given = call.arguments ?? {};
  if (given.text !== undefined) return given.text;
  return given.data ? pretty(given.data) : given.binary ?? "no arguments";
}

/** A call with its buttons; `decided` is called once the answer is there. */
export function approvalCard(call, decided, signal) {
  const reason = el("input", { maxlength: "1000", placeholder: "optional", autocomplete: "off" });
  const approver = el("input", { maxlength: "255", placeholder: "optional", autocomplete: "off" });
  const outcome = el("p", { class: "outcome", role: "status" });
  const buttons = ["approve", "reject"].map((verb) => {
    const button = el("button", { type: "button", class: verb }, verb === "approve" ? "Approve" : "Reject");
    // One key for all presses: where an answer was lost, the next press does the same thing once.
    const key = [...crypto.getRandomValues(new Uint32Array(4))].map((each) => each.toString(36)).join("");
    button.addEventListener("click", async () => {
      for (const each of buttons) each.disabled = true;
      try {
        const path = sessionPath(call.session_id, `/toolCalls/${encodeURIComponent(call.tool_call_id)}:${verb}`);
        await post(path, { reason: reason.value, approver: approver.value }, { "idempotency-key": `${key}-${hash(reason.value, approver.value)}` });
        outcome.textContent = verb === "approve" ? "Approved." : "Rejected.";
        speak(`${call.name} ${outcome.textContent}`);
        decided();
      } catch (error) {
        for (const each of buttons) each.disabled = signal?.aborted ?? false;
        problem(error, `The call was not ${verb === "approve" ? "approved" : "rejected"}`);
      }
    });
    return button;
  });
  const session = el("a", { href: `#/sessions/${encodeURIComponent(call.session_id)}` }, foreign(call.session_id));
  const until = call.expire_time ? ["; decides itself ", time(call.expire_time)] : null;
  return el(
    "article", { class: "approval", "data-id": `${call.session_id}/${call.tool_call_id}`, "aria-label": `Approval of ${call.name}` },
    el("header", {}, el("strong", {}, foreign(call.name)), " asks in ", session, " since ", time(call.create_time), until),
    long(argumentsOf(call), "pre"),
    folded("Call as JSON", () => pretty(call)),
    el("div", { class: "decide" }, el("label", {}, "Reason ", reason), el("label", {}, "Your name ", approver), buttons, outcome),
  );
}

/** A short text of what was typed: another answer is another request. */
function hash(...texts) {
  let found = 0;
  for (const each of texts.join("\u0000")) found = (Math.imul(found, 31) + each.codePointAt(0)) | 0;
  return (found >>> 0).toString(36);
}

export async function countApprovals() {
  const answer = await get("/v1/toolCalls:pending", { page_size: 100 });
  const count = answer.tool_calls?.length ?? 0;
  return answer.next_page_token ? `${count}+` : String(count);
}

/** Shows the inbox. `changed` is called after a decision. Returns what adds the calls that have come since. */
export async function showApprovals(place, changed, signal) {
  const cards = el("div", { class: "approvals" });
  const none = el("p", { class: "empty", hidden: true }, "Nothing waits for an approval.");
  const user = el("input", { maxlength: "255", autocomplete: "off" });
  const filter = el("form", { class: "row" }, el("label", {}, "Only of user ", user), el("button", { type: "submit" }, "Refresh"));
  const more = el("button", { type: "button", class: "quiet", hidden: true }, "More");
  let token = "";
  const add = (calls) => {
    const known = new Set([...cards.children].map((each) => each.dataset.id));
    const cardsOfNew = calls.map((each) => approvalCard(each, changed, signal)).filter((each) => !known.has(each.dataset.id));
    cards.append(...cardsOfNew);
    none.hidden = cards.children.length > 0;
    if (known.size && cardsOfNew.length) speak(`${cardsOfNew.length} more to approve`);
  };
  const load = async () => {
    const query = { user_id: user.value, page_size: 50, page_token: token };
    const answer = await get("/v1/toolCalls:pending", query, signal);
    add(answer.tool_calls ?? []);
    token = answer.next_page_token ?? "";
    more.hidden = !token;
  };
  const again = async (event) => {
    event?.preventDefault();
    token = "";
    cards.replaceChildren();
    await load().catch((error) => problem(error, "The approvals could not be read"));
  };
  filter.addEventListener("submit", again);
  more.addEventListener("click", () => load().catch((error) => problem(error, "The approvals could not be read")));
  show(place, el("div", { class: "page" }, el("h1", {}, "Approvals"), filter, cards, none, more));
  await again();
  return async () => {
    if (token) return; // those that came last are on the last page
    const answer = await get("/v1/toolCalls:pending", { user_id: user.value, page_size: 100 }, signal);
    add(answer.tool_calls ?? []);
  };
}
