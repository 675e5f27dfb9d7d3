// Reads sessions to their end with the EventSource of npm, which comes back by itself.
import { EventSource } from "eventsource";
import { Session, addressOf, base, sessions } from "./sessions.js";

for (const id of sessions) {
  const session = new Session(id);
  const events = new EventSource(addressOf(base, id));
  const leave = (why) => {
    events.close();
    session.leave(why);
  };
  for (const name of ["events", "deltas"]) {
    events.addEventListener(name, ({ data }) => session.take(name, JSON.parse(data)) && leave(null));
  }
  events.addEventListener("end", ({ data }) => {
    const end = JSON.parse(data);
    if (!end.come_back) leave(end.reason);
  });
  events.addEventListener("error", ({ code, message }) => {
    session.broken += 1;
    if (events.readyState === EventSource.CLOSED) leave(`${code} ${message}`);
  });
}
