// Reads sessions to their end with fetch alone: server-sent events as the standard says, resumed by Last-Event-ID.
import { setTimeout as pause } from "node:timers/promises";
import { Session, addressOf, base, sessions } from "./sessions.js";

// The events of one answer. What stands behind the last blank line is no event: the line broke within it.
async function* eventsOf(body) {
  let rest = "";
  for await (const text of body.pipeThrough(new TextDecoderStream())) {
    const blocks = (rest + text).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const event = { event: "message", data: [] };
      for (const line of block.split("\n")) {
        const [, name, value] = /^([^:]*):? ?(.*)$/s.exec(line);
        if (name === "data") event.data.push(value);
        else if (name) event[name] = value;
      }
      yield event;
    }
  }
}

async function read(id) {
  const session = new Session(id);
  let last = "";
  for (;;) {
    try {
      const answer = await fetch(addressOf(base, id), { headers: last ? { "last-event-id": last } : {} });
      if (answer.status !== 200) {
        const text = await answer.text();
        if (answer.status < 500) return session.leave(`${answer.status} ${text}`);
      } else {
        for await (const event of eventsOf(answer.body)) {
          last = event.id ?? last;
          if (!event.data.length) continue;
          const data = JSON.parse(event.data.join("\n"));
          if (session.take(event.event, data)) return session.leave();
          if (event.event === "end" && !data.come_back) return session.leave(data.reason);
        }
      }
    } catch (error) {
      if (!(error instanceof TypeError)) throw error; // fetch throws this one where a line breaks
    }
    session.broken += 1;
    await pause(50 + Math.random() * 200);
  }
}

await Promise.all(sessions.map(read));
