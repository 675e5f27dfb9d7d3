// Elements, and the texts of values. Every text becomes a text node: nothing here reads markup.

const SVG = "http://www.w3.org/2000/svg";
const SAFE_ADDRESS = /^(#|blob:|https?:\/\/|data:image\/(png|jpeg|gif|webp);base64,)/i;

function made(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name, value);
    else if ((name === "href" || name === "src") && !SAFE_ADDRESS.test(value)) throw new Error("an unsafe address");
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((each) => each !== null && each !== undefined && each !== false));
  return element;
}

/** An element. An attribute whose value is a function is a listener; null, undefined and false are left out. */
export function el(tag, attributes = {}, ...children) {
  return made(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return made(document.createElementNS(SVG, tag), attributes, children);
}

/** A text that someone else wrote: isolated, so that its direction does not reach what stands beside it. */
export function foreign(text, tag = "bdi", attributes = {}) {
  return el(tag, { dir: "auto", ...attributes }, String(text ?? ""));
}

/** `ROLE_USER` as `user`. */
export function word(value, prefix) {
  return String(value ?? "").replace(prefix, "").toLowerCase().replaceAll("_", " ");
}

export function time(value) {
  if (!value) return "";
  const date = new Date(value);
  const today = new Date().toDateString() === date.toDateString();
  const shown = today ? date.toLocaleTimeString() : date.toLocaleString();
  return el("time", { datetime: value, title: date.toISOString() }, shown);
}

export function duration(seconds) {
  if (!Number.isFinite(seconds)) return "";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 120) return `${seconds.toFixed(1)} s`;
  if (seconds < 7200) return `${(seconds / 60).toFixed(1)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

/** Seconds of protobuf's `"3.5s"`. */
export function seconds(text) {
  return text ? Number.parseFloat(text) : 0;
}

export function bytes(count) {
  const size = Number(count ?? 0);
  if (size < 1024) return `${size} B`;
  return size < 1048576 ? `${(size / 1024).toFixed(1)} KiB` : `${(size / 1048576).toFixed(1)} MiB`;
}

export function number(value) {
  return Number(value ?? 0).toLocaleString();
}

export function pretty(value) {
  return JSON.stringify(value, null, 2);
}

/** Data folded under a title; its text is made when it is first opened. */
export function folded(title, text, attributes = {}) {
  const body = el("div");
  const open = (event) => {
    if (event.target.open && !body.firstChild) body.append(long(text(), "pre"));
  };
  return el("details", { ...attributes, toggle: open }, el("summary", {}, title), body);
}

const SHOWN = 20000;

/** A text of any length; beyond 20 000 characters the rest is shown on demand. */
export function long(text, tag = "p") {
  if (text.length <= SHOWN) return foreign(text, tag, { class: "text" });
  let end = SHOWN;
  if ((text.charCodeAt(end - 1) & 0xfc00) === 0xd800) end -= 1;
  const shown = foreign(text.slice(0, end), tag, { class: "text" });
  const more = el("button", { type: "button", class: "quiet" }, `Show all ${number(text.length)} characters`);
  more.addEventListener("click", () => {
    shown.textContent = text;
    more.remove();
  });
  return el("div", {}, shown, more);
}

/** Shows only this in a place. */
export function show(place, ...children) {
  place.replaceChildren(...children.flat().filter(Boolean));
}

/** Tells a screen reader. */
export function speak(text) {
  document.getElementById("spoken").textContent = text.slice(0, 300);
}
