// Reads a run as a front end with AG-UI does, by its own agent.
import { HttpAgent } from "@ag-ui/client";

const [url, key] = process.argv.slice(2);
const agent = new HttpAgent({
  url,
  headers: { authorization: `Bearer ${key}` },
});
let error = null;
try {
  await agent.runAgent({}, { onRunErrorEvent: ({ event }) => { error = event.message; } });
} catch (found) {
  error = found.message;
}
console.log(JSON.stringify({ messages: agent.messages, error, ended: true }));
