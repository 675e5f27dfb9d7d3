// Messages while they are written, from deltas.

import { el, foreign } from "./dom.js";

const MOST_DRAFTS = 16;
const LONGEST = 200000; // characters of one part that are shown before the message is appended

const encoder = new TextEncoder();
const KINDS = { text: "text", thinking: "thinking", arguments: "arguments" };

export class Drafts {
  constructor(place) {
    this.place = place;
    this.drafts = new Map();
  }

  clear() {
    this.drafts.clear();
    this.place.replaceChildren();
  }

  end(messageId) {
    this.drafts.get(messageId)?.element.remove();
    this.drafts.delete(messageId);
  }

  apply(delta) {
    const draft = this.drafts.get(delta.message_id) ?? this.begin(delta);
    draft.state.textContent = delta.interrupted ? "interrupted" : "writing…";
    const kind = Object.keys(KINDS).find((each) => delta[each] !== undefined);
    if (kind) this.write(draft, delta, kind);
  }

  begin(delta) {
    if (this.drafts.size >= MOST_DRAFTS) this.end(this.drafts.keys().next().value);
    const state = el("span", { class: "state" });
    const name = delta.name ? foreign(delta.name) : null;
    const element = el(
      "article", { class: "message draft", "aria-busy": "true", "aria-label": "message being written" },
      el("header", {}, el("strong", {}, "Draft"), name, state),
    );
    const draft = { element, state, parts: new Map() };
    this.drafts.set(delta.message_id, draft);
    this.place.append(element);
    return draft;
  }

  write(draft, delta, kind) {
    const index = Number(delta.part_index ?? 0);
    const offset = Number(delta.offset ?? 0);
    let part = draft.parts.get(index);
    if (!part || offset === 0) {
      part?.element.remove();
      const text = document.createTextNode("");
      part = { text, end: 0, element: el("p", { class: `text ${kind}`, dir: "auto" }, text) };
      draft.parts.set(index, part);
      const next = [...draft.parts].filter(([each]) => each > index).sort(([a], [b]) => a - b)[0];
      draft.element.insertBefore(part.element, next?.[1].element ?? null);
    }
    if (offset !== part.end) part.text.appendData(" […] "); // pieces are missing; the message itself will have them
    if (part.text.length < LONGEST) part.text.appendData(delta[kind]);
    part.end = offset + encoder.encode(delta[kind]).length;
  }
}
