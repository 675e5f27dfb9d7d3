// Readers of runs: each line of the input is a run, {session, run}; each is read again until its end has been seen, and
// printed as it is shown then. A reader is a function of the run's address: what is shown, or null where the line broke.
import { createInterface } from "node:readline";
import { setTimeout as pause } from "node:timers/promises";

const [base] = process.argv.slice(2);

async function shown(read, { session, run }) {
  for (let broken = 0; ; broken += 1) {
    let found = null;
    try {
      found = await read(`${base}/v1/sessions/${session}/runs/${run}`);
    } catch {
      // as where the line breaks
    }
    if (found) return console.log(JSON.stringify({ session, run, broken, ...found }));
    await pause(50 + Math.random() * 200);
  }
}

export async function eachRun(read) {
  const reading = [];
  console.log(JSON.stringify({ ready: true }));
  for await (const line of createInterface({ input: process.stdin })) reading.push(shown(read, JSON.parse(line)));
  await Promise.all(reading);
}
