// What went wrong, shown until the reader closes it.

import { ApiError } from "./api.js";
import { el } from "./dom.js";

const MOST = 4;

/** The reason of an error, for people. */
export function reasonOf(error) {
  if (error instanceof ApiError) {
    const id = error.requestId ? `, request ${error.requestId}` : "";
    return `${error.message} (${error.reason ?? error.status}${id})`;
  }
  return error instanceof TypeError ? `the server cannot be reached (${error.message})` : String(error?.message ?? error);
}

/** Shows an error. The end of what the reader has left is none. */
export function problem(error, what) {
  if (error?.name === "AbortError") return;
  const place = document.getElementById("problems");
  const text = `${what}: ${reasonOf(error)}`;
  for (const each of place.children) if (each.firstChild.textContent === text) return;
  const close = el("button", { type: "button", class: "quiet", "aria-label": "Close this message" }, "Close");
  const shown = el("p", {}, el("span", { dir: "auto" }, text), close);
  close.addEventListener("click", () => shown.remove());
  while (place.children.length >= MOST) place.firstChild.remove();
  place.append(shown);
}

export function clearProblems() {
  document.getElementById("problems").replaceChildren();
}
