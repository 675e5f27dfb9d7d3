// What readers of sessions print: a line of JSON for each event and each piece of a draft, in the order in which they came.
export class Session {
  broken = 0;

  constructor(session) {
    this.session = session;
  }

  // Takes a frame; returns whether the session has ended.
  take(name, data) {
    let ended = false;
    for (const event of name === "events" ? data.events : []) {
      const { message_id = "", parts = [] } = event.message ?? {};
      const text = parts.map((part) => part.text ?? "").join("");
      this.print({ event_id: event.event_id, seq: Number(event.seq), message_id, text });
      ended ||= event.type === "EVENT_TYPE_SESSION_ENDED";
    }
    for (const delta of name === "deltas" ? data.deltas : []) {
      if (delta.text) this.print({ message_id: delta.message_id, offset: Number(delta.offset ?? 0), piece: delta.text });
    }
    return ended;
  }

  print(found) {
    console.log(JSON.stringify({ session: this.session, ...found }));
  }

  // The last line; `why`: what made the reader give up, if it did.
  leave(why = null) {
    this.print({ left: true, broken: this.broken, why });
  }
}

export function addressOf(base, session) {
  return `${base}/v1/sessions/${session}/events?start=FEED_START_BEGINNING&deltas=true`;
}

console.log(JSON.stringify({ ready: true }));
export const [base, ...sessions] = process.argv.slice(2);
