// Makes many calls at once on one channel and prints how they ended: {"OK": 6000, "UNAVAILABLE ...": 2}.
//
// Arguments: target, key, calls at once, calls of each caller, streams, the request of GetSession and that of
// WatchSession in base64. The streams are opened first and stay open until all calls have ended.
"use strict";
const grpc = require("@grpc/grpc-js");

const [target, key, callers, each, streams, get, watch] = process.argv.slice(2);
const metadata = new grpc.Metadata();
metadata.set("authorization", "Bearer " + key);
const options = { deadline: Date.now() + 240_000 };
const raw = (bytes) => bytes; // no generated code is needed
const channel = new grpc.Client(target, grpc.credentials.createInsecure(), { "grpc.enable_retries": 0 });
const ends = {};

function add(error) {
  const name = error ? `${grpc.status[error.code]} ${error.details}` : "OK";
  ends[name] = (ends[name] ?? 0) + 1;
}

function call() {
  return new Promise((done) => {
    const request = Buffer.from(get, "base64");
    const path = "/sessiond.v1.SessionService/GetSession";
    channel.makeUnaryRequest(path, raw, raw, request, metadata, options, (error) => {
      add(error);
      done();
    });
  });
}

const open = [];
/** Resolves with the first frame; the stream stays open. */
function stream() {
  return new Promise((done) => {
    const request = Buffer.from(watch, "base64");
    const path = "/sessiond.v1.EventService/WatchSession";
    const call = channel.makeServerStreamRequest(path, raw, raw, request, metadata, options);
    let first = true;
    const begun = (error) => {
      if (first) {
        first = false;
        add(error);
        done();
      }
    };
    call.on("data", () => begun());
    call.on("error", begun);
    open.push(call);
  });
}

async function caller() {
  for (let n = 0; n < Number(each); n++) {
    await call();
  }
}

async function main() {
  await Promise.all(Array.from({ length: Number(streams) }, stream));
  await Promise.all(Array.from({ length: Number(callers) }, caller));
  open.forEach((call) => call.cancel());
  channel.close();
  console.log(JSON.stringify(ends));
}

main();
