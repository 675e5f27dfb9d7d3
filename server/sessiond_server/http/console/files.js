// Files of a session: attachments, and files that messages name.

import { get, request, sessionPath } from "./api.js";
import { bytes, el, foreign, show, time, word } from "./dom.js";
import { problem } from "./problems.js";

const LARGEST = 64 * 1024 * 1024; // bytes that the page takes into memory to save a file

async function save(sessionId, attachment, signal) {
  if (Number(attachment.size_bytes ?? 0) > LARGEST) {
    throw new Error(`the console saves files up to ${bytes(LARGEST)}; use curl for larger ones`);
  }
  const path = sessionPath(sessionId, `/attachments/${encodeURIComponent(attachment.attachment_id)}/content`);
  const content = await (await request("GET", path, { signal })).blob();
  // No type of its own: the browser then never shows it as a page of this origin.
  const url = URL.createObjectURL(new Blob([content], { type: "application/octet-stream" }));
  el("a", { href: url, download: attachment.name || attachment.attachment_id }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}

/** A file that a message names. */
export function attachmentPart(file, sessionId) {
  const uri = file.uri ?? "";
  const name = foreign(file.name || (uri.length > 80 ? `${uri.slice(0, 80)}…` : uri));
  const type = file.media_type ? foreign(file.media_type, "small") : null;
  if (uri.startsWith("attachment:")) {
    const open = el("a", { href: `#/sessions/${encodeURIComponent(sessionId)}/files` }, name);
    return el("p", { class: "file" }, "File: ", open, " ", type);
  }
  if (/^https?:\/\//i.test(uri)) {
    const link = el("a", { href: uri, target: "_blank", rel: "noopener noreferrer", title: uri.slice(0, 500) }, name);
    return el("p", { class: "file" }, "File elsewhere: ", link, " ", type);
  }
  return el("p", { class: "file" }, "File: ", name, " ", type);
}

function row(sessionId, each, signal) {
  const take = el("button", { type: "button", class: "quiet", "aria-label": `Save ${each.name || each.attachment_id}` }, "Save");
  take.addEventListener("click", async () => {
    take.disabled = true;
    await save(sessionId, each, signal).catch((error) => problem(error, "The file could not be saved"));
    take.disabled = false;
  });
  return el(
    "tr", {},
    el("th", { scope: "row" }, foreign(each.name || each.attachment_id)),
    el("td", {}, foreign(each.media_type)),
    el("td", {}, word(each.type, "ATTACHMENT_TYPE_")),
    el("td", { class: "number" }, bytes(each.size_bytes)),
    el("td", {}, time(each.create_time)),
    el("td", {}, take),
  );
}

/** Shows the attachments of a session in `place`. */
export async function showFiles(place, sessionId, signal) {
  const body = el("tbody");
  const more = el("button", { type: "button", class: "quiet", hidden: true }, "More files");
  const headings = ["Name", "Media type", "Kind", "Size", "Uploaded", ""].map((each) => el("th", { scope: "col" }, each));
  const table = el("table", {}, el("caption", { class: "unseen" }, "Files"), el("thead", {}, el("tr", {}, headings)), body);
  let token = "";
  const load = async () => {
    more.disabled = true;
    try {
      const page = await get(sessionPath(sessionId, "/attachments"), { page_size: 50, page_token: token }, signal);
      for (const each of page.attachments ?? []) body.append(row(sessionId, each, signal));
      token = page.next_page_token ?? "";
      more.hidden = !token;
    } finally {
      more.disabled = false;
    }
  };
  more.addEventListener("click", () => load().catch((error) => problem(error, "The files could not be read")));
  await load();
  show(place, body.firstChild ? [el("div", { class: "wide" }, table), more] : el("p", { class: "empty" }, "No files."));
}
