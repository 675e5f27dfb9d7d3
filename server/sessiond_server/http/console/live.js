// Server-sent events by fetch, so that the key goes in a header and in no address.

import { ApiError, request, withQuery } from "./api.js";

const SHORTEST_WAIT = 500;
const LONGEST_WAIT = 10000;
const SILENCE = 45000; // the service breaks silence within 15 s; a connection that says nothing is dead

/** Yields `{event, id, data}` of one stream until it ends. */
export async function* parse(body, onPiece = () => {}) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let pieces = [];
  let found = { event: "message", id: "", data: [] };
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      onPiece();
      let rest = value;
      for (let end = rest.indexOf("\n"); end >= 0; end = rest.indexOf("\n")) {
        pieces.push(rest.slice(0, end));
        const line = pieces.join("").replace(/\r$/, "");
        pieces = [];
        rest = rest.slice(end + 1);
        if (line === "") {
          if (found.data.length) yield { ...found, data: JSON.parse(found.data.join("\n")) };
          found = { event: "message", id: found.id, data: [] };
          continue;
        }
        const colon = line.indexOf(":");
        const name = colon < 0 ? line : line.slice(0, colon);
        const text = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
        if (name === "data") found.data.push(text);
        else if (name === "event") found.event = text;
        else if (name === "id") found.id = text;
      }
      pieces.push(rest);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function wait(milliseconds, signal) {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, milliseconds);
    signal.addEventListener("abort", done);
  });
}

/** Waits until the page is in sight: browsers have few connections for one host, and hidden pages need none. */
function inSight(signal) {
  return new Promise((resolve) => {
    const look = () => {
      if (document.hidden && !signal.aborted) return;
      document.removeEventListener("visibilitychange", look);
      signal.removeEventListener("abort", look);
      resolve();
    };
    document.addEventListener("visibilitychange", look);
    signal.addEventListener("abort", look);
    look();
  });
}

/**
 * Follows a session until `signal` aborts: calls `handle({event, data})` for each event, one after the other, and comes
 * back with the position after a broken line. `state` is told "live", "waiting" (with the error) or "ended" (with the
 * error, if any); after "ended" nothing more comes. While the page is hidden there is no stream. Where the position is lost it begins anew with a snapshot.
 */
export async function follow(path, { handle, state, signal }) {
  let position = "";
  let pause = SHORTEST_WAIT;
  for (;;) {
    await inSight(signal);
    if (signal.aborted) return;
    let error = null;
    const attempt = new AbortController();
    const stop = () => attempt.abort();
    const hide = () => document.hidden && stop();
    signal.addEventListener("abort", stop);
    document.addEventListener("visibilitychange", hide);
    let watchdog = 0;
    const heard = () => {
      clearTimeout(watchdog);
      watchdog = setTimeout(stop, SILENCE);
    };
    try {
      heard();
      const query = { deltas: "true", view: "SESSION_VIEW_BASIC", position };
      const response = await request("GET", withQuery(path, query), { signal: attempt.signal });
      state("live");
      for await (const each of parse(response.body, heard)) {
        clearTimeout(watchdog); // the time that the page itself takes is not the server's silence
        if (signal.aborted) return;
        pause = SHORTEST_WAIT;
        if (each.event === "end") {
          if (each.data.reason) error = new ApiError({ ...each.data, detail: each.data.detail ?? each.data.reason });
          if (!each.data.come_back && !lost(error)) return state("ended", error);
        } else {
          await handle(each);
        }
        if (each.id) position = each.id;
        heard();
      }
    } catch (caught) {
      error = caught;
    } finally {
      clearTimeout(watchdog);
      signal.removeEventListener("abort", stop);
      document.removeEventListener("visibilitychange", hide);
      attempt.abort();
    }
    if (signal.aborted) return;
    if (document.hidden) {
      state("waiting", null);
      continue;
    }
    if (lost(error)) position = "";
    else if (error instanceof ApiError && error.status && error.status < 500 && error.status !== 429) {
      return state("ended", error);
    }
    state("waiting", error);
    await wait(pause * (0.5 + Math.random() / 2), signal);
    pause = Math.min(pause * 2, LONGEST_WAIT);
  }
}

function lost(error) {
  return error instanceof ApiError && /^POSITION_(LOST|COMPACTED)$|^INVALID_POSITION$/.test(error.reason ?? "");
}
