// One message as people read one.

import { bytes, el, folded, foreign, long, pretty, time, word } from "./dom.js";
import { attachmentPart } from "./files.js";

const PICTURES = new Set(["image/png", "image/jpeg", "image/gif", "image/webp"]);

function picture(base64, mediaType) {
  return el("img", { src: `data:${mediaType};base64,${base64}`, alt: "picture in the message", loading: "lazy" });
}

function call(part) {
  const given = part.arguments_struct ? () => pretty(part.arguments_struct) : () => part.arguments_json ?? "no arguments";
  return folded(["Calls ", foreign(part.name, "code")], given, { class: "tool" });
}

function result(part) {
  const title = part.is_error ? "Error of the tool" : "Result of the tool";
  const text = () => (part.data ? pretty(part.data) : part.text ?? "no result");
  return folded([title, " ", foreign(part.tool_call_id, "code")], text, { class: part.is_error ? "tool failed" : "tool" });
}

function blob(part) {
  const data = part.data ?? "";
  const name = `${part.media_type || "data"}, ${bytes(Math.floor((data.length * 3) / 4))}`;
  return el("figure", {}, PICTURES.has(part.media_type) ? picture(data, part.media_type) : null, foreign(name, "figcaption"));
}

function part(found, sessionId) {
  if (found.text !== undefined) return long(found.text);
  if (found.thinking !== undefined) return folded("Thinking", () => found.thinking, { class: "thinking" });
  if (found.tool_call) return call(found.tool_call);
  if (found.tool_result) return result(found.tool_result);
  if (found.file) return attachmentPart(found.file, sessionId);
  if (found.blob) return blob(found.blob);
  if (found.json !== undefined) return folded("JSON", () => found.json);
  return folded("Data", () => pretty(found.data ?? found));
}

function gone(text, when, reason) {
  return el("p", { class: "gone" }, text, " ", time(when), reason ? [": ", foreign(reason)] : null);
}

export function roleOf(message) {
  return word(message.role, "ROLE_") || "unknown";
}

function head(message) {
  const role = roleOf(message);
  return el(
    "header", {},
    el("strong", {}, role[0].toUpperCase() + role.slice(1)),
    message.name ? foreign(message.name) : null,
    time(message.create_time),
    el("span", { class: "seq", title: "place in the session's log" }, `#${message.seq ?? ""}`),
  );
}

function details(message) {
  const found = {};
  for (const name of ["message_id", "run_id", "labels", "metadata", "usage", "client_time", "token_count"]) {
    if (message[name]) found[name] = message[name];
  }
  return folded("Details", () => pretty(found), { class: "details" });
}

/** The element of a message. It has `seq`, and `id` of the message, in its dataset. */
export function messageElement(message, sessionId) {
  const role = roleOf(message);
  const content = message.delete_time
    ? [gone("Deleted", message.delete_time)]
    : message.redact_time
      ? [gone("Redacted", message.redact_time, message.redact_reason)]
      : (message.parts ?? []).map((each) => part(each, sessionId));
  if (!content.length) content.push(el("p", { class: "gone" }, "No content"));
  const element = el("article", { class: `message ${role}`, tabindex: "-1" }, head(message), content, details(message));
  element.setAttribute("aria-label", `${role}, message ${message.seq ?? ""}`);
  element.dataset.seq = message.seq ?? "0";
  element.dataset.id = message.message_id ?? "";
  return element;
}

/** What a screen reader is told of a new message. */
export function spokenText(message) {
  const text = (message.parts ?? []).map((each) => each.text ?? "").join(" ").trim();
  return `${roleOf(message)}: ${text || "a message without text"}`;
}
