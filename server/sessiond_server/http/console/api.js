// Calls of the service. The key is in this module's memory and nowhere else.

let key = "";
let database = "";
let onUnauthenticated = () => {};

export function signIn(newKey, newDatabase) {
  key = newKey;
  database = newDatabase;
}

export function hasKey() {
  return key !== "";
}

/** `ask` is called when the service asks for a key, or for another one. */
export function whenUnauthenticated(ask) {
  onUnauthenticated = ask;
}

export class ApiError extends Error {
  /** `problem`: the body of the answer; see docs/http.md. */
  constructor(problem) {
    super(problem.detail ?? problem.title); // the detail names the fields too
    this.status = problem.status;
    this.reason = problem.reason;
    this.requestId = problem.request_id;
  }
}

export function sessionPath(id, rest = "") {
  // Browsers resolve these two as folders, percent-encoded or not.
  if (id === "." || id === "..") throw new Error("a browser cannot ask for a session with this id; read it by gRPC");
  return `/v1/sessions/${encodeURIComponent(id)}${rest}`;
}

export function withQuery(path, query) {
  const pairs = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    for (const each of Array.isArray(value) ? value : [value]) {
      if (each !== undefined && each !== null && each !== "") pairs.append(name, each);
    }
  }
  const text = pairs.toString();
  return text ? `${path}?${text}` : path;
}

/** The response of a request. Throws ApiError for what is refused, TypeError where the server cannot be reached. */
export async function request(method, path, { body, headers = {}, signal } = {}) {
  const sent = { ...headers };
  const keyOfCall = key;
  if (key) sent.authorization = `Bearer ${key}`;
  if (database) sent["db-id"] = database;
  if (body !== undefined) sent["content-type"] = "application/json";
  const response = await fetch(path, {
    method,
    headers: sent,
    body: body === undefined ? undefined : JSON.stringify(body),
    signal,
    cache: "no-store",
    credentials: "omit",
    redirect: "error",
    referrerPolicy: "no-referrer",
  });
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({ title: response.statusText }));
  if (response.status === 401 && keyOfCall === key) onUnauthenticated();
  throw new ApiError({ status: response.status, ...problem });
}

export async function get(path, query = {}, signal = undefined) {
  return (await request("GET", withQuery(path, query), { signal })).json();
}

export async function post(path, body, headers = {}) {
  return (await request("POST", path, { body, headers })).json();
}
