// The messages of a session. The page holds a window of them: older and newer ones are read as one scrolls, and those
// far from sight are taken out, so that a session of any length costs the same.

import { get, sessionPath } from "./api.js";
import { Drafts } from "./drafts.js";
import { el, speak } from "./dom.js";
import { messageElement, spokenText } from "./message.js";
import { problem } from "./problems.js";

const PAGE = 50;
const MOST = 300; // messages in the page at a time
const NEAR = 600; // pixels from an edge at which the next page is read

export class Conversation {
  constructor(place, sessionId, signal) {
    this.sessionId = sessionId;
    this.signal = signal;
    this.atOldest = false;
    this.atNewest = false;
    this.loading = false;
    this.held = []; // events that came while a page was read
    this.seen = 0; // the newest version that a page or an event has told of
    this.messages = el("div", { class: "messages" });
    this.start = el("p", { class: "empty", hidden: true }, "The beginning of the session.");
    this.none = el("p", { class: "empty", hidden: true }, "No messages yet.");
    this.draftPlace = el("div", { class: "drafts" });
    this.drafts = new Drafts(this.draftPlace);
    this.newest = el("button", { type: "button", class: "to-newest", hidden: true }, "To the newest");
    this.newest.addEventListener("click", () => this.goToNewest());
    this.scroller = el(
      "section", { class: "scroller", tabindex: "0", "aria-label": "Messages", scroll: () => this.onScroll() },
      this.start, this.none, this.messages, this.draftPlace,
    );
    place.replaceChildren(this.scroller, this.newest);
  }

  /** Reads the newest page, or that which ends at `seq`. */
  async open(version, seq = 0) {
    this.seen = Math.max(this.seen, Number(version));
    await this.holding(() => this.showPage(seq));
    this.onScroll();
  }

  async showPage(seq) {
    const page = await this.page("MESSAGE_ORDER_NEWEST_FIRST", seq ? { before_seq: seq + 1 } : {});
    this.messages.replaceChildren(...page.reverse().map((each) => this.element(each)));
    this.atOldest = page.length < 1;
    this.start.hidden = true;
    this.atNewest = !seq;
    this.none.hidden = page.length > 0 || !this.atNewest;
    this.scrollToEnd();
    if (seq) this.messages.lastChild?.focus();
  }

  /** Reads a page. Events that come meanwhile are applied behind it, as the page may be older or newer than they are. */
  async holding(read) {
    this.loading = true;
    try {
      await read();
    } finally {
      this.loading = false;
      for (const each of this.held.splice(0)) this.apply(each);
    }
  }

  async page(order, query) {
    const path = sessionPath(this.sessionId, "/messages");
    const answer = await get(path, { order_by: order, page_size: PAGE, min_version: this.seen || "", ...query }, this.signal);
    return answer.messages ?? [];
  }

  element(message) {
    return messageElement(message, this.sessionId);
  }

  get atEnd() {
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    return scrollHeight - scrollTop - clientHeight < 40;
  }

  scrollToEnd() {
    this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  onScroll() {
    this.newest.hidden = this.atNewest && this.atEnd;
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    if (!this.loading && !this.atOldest && this.messages.firstChild && scrollTop < NEAR) this.load(this.loadOlder);
    else if (!this.loading && !this.atNewest && scrollHeight - scrollTop - clientHeight < NEAR) this.load(this.loadNewer);
  }

  async load(how) {
    try {
      await this.holding(() => how.call(this));
    } catch (error) {
      problem(error, "Messages could not be read");
      return; // the next scroll tries again
    }
    this.onScroll();
  }

  async loadOlder() {
    const first = this.messages.firstChild;
    const page = await this.page("MESSAGE_ORDER_NEWEST_FIRST", { before_seq: first.dataset.seq });
    if (this.messages.firstChild !== first) return;
    this.keepingPlace(first, () => {
      this.atOldest = page.length === 0;
      this.start.hidden = !this.atOldest;
      this.messages.prepend(...page.reverse().map((each) => this.element(each)));
      while (this.messages.children.length > MOST) {
        this.messages.lastChild.remove();
        this.atNewest = false;
      }
    });
  }

  async loadNewer() {
    const last = this.messages.lastChild;
    const page = await this.page("MESSAGE_ORDER_OLDEST_FIRST", { after_seq: last?.dataset.seq ?? 0 });
    if (this.messages.lastChild !== last) return;
    this.atNewest = page.length < PAGE;
    this.keepingPlace(last, () => {
      this.messages.append(...page.map((each) => this.element(each)));
      this.trimOldest();
    });
  }

  trimOldest() {
    while (this.messages.children.length > MOST) {
      this.messages.firstChild.remove();
      this.atOldest = false;
      this.start.hidden = true;
    }
  }

  /** Changes the window; `element` stays where the reader sees it. */
  keepingPlace(element, change) {
    const before = element?.getBoundingClientRect().top ?? 0;
    change();
    if (element?.isConnected) this.scroller.scrollTop += element.getBoundingClientRect().top - before;
  }

  async goToNewest() {
    if (!this.atNewest) await this.open(0).catch((error) => problem(error, "Messages could not be read"));
    this.scrollToEnd();
    this.scroller.focus();
  }

  /** Takes an event of the session's log. */
  apply(event) {
    this.seen = Math.max(this.seen, Number(event.seq));
    if (this.loading) {
      this.held.push(event);
      return;
    }
    const message = event.message;
    if (event.type === "EVENT_TYPE_MESSAGE_APPENDED" && message) this.append({ seq: event.seq, ...message });
    else if (event.type === "EVENT_TYPE_MESSAGE_REDACTED" && message) this.replace(message);
    else if (event.type === "EVENT_TYPE_MESSAGES_DELETED") this.markDeleted(event);
  }

  append(message) {
    this.drafts.end(message.message_id);
    const last = this.messages.lastChild;
    if (!this.atNewest || (last && Number(last.dataset.seq) >= Number(message.seq))) return;
    const follow = this.atEnd;
    this.none.hidden = true;
    const change = () => {
      this.messages.append(this.element(message));
      if (follow) this.trimOldest();
    };
    if (follow) change();
    else this.keepingPlace(this.messages.firstChild, change);
    if (this.messages.children.length > 2 * MOST) {
      // The reader looks at old messages while many new ones come: these are read when he scrolls there.
      while (this.messages.children.length > MOST) this.messages.lastChild.remove();
      this.atNewest = false;
    }
    if (follow) this.scrollToEnd();
    this.newest.hidden = this.atNewest && this.atEnd;
    speak(spokenText(message));
  }

  find(id) {
    return [...this.messages.children].find((each) => each.dataset.id === id);
  }

  replace(message) {
    this.find(message.message_id)?.replaceWith(this.element(message));
  }

  markDeleted(event) {
    for (const id of event.deleted_messages?.message_ids ?? []) {
      const found = this.find(id);
      if (!found) continue;
      const role = `ROLE_${[...found.classList].at(-1).toUpperCase()}`;
      this.replace({ message_id: id, seq: found.dataset.seq, role, delete_time: event.create_time });
    }
  }

  applyDeltas(deltas) {
    if (!this.atNewest) return;
    const follow = this.atEnd;
    for (const each of deltas) if (!this.find(each.message_id)) this.drafts.apply(each);
    if (follow) this.scrollToEnd();
  }
}
