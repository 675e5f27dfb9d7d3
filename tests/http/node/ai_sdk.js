// Reads a run as a front end with Vercel's AI SDK does, by its own transport, and prints the message after each change.
import { DefaultChatTransport, readUIMessageStream } from "ai";

const [api, key] = process.argv.slice(2);
const transport = new DefaultChatTransport({
  prepareReconnectToStreamRequest: () => ({ api, headers: { authorization: `Bearer ${key}` } }),
});
const stream = await transport.reconnectToStream({ chatId: "any" });
let error = null;
let message = null;
for await (message of readUIMessageStream({ stream, onError: (found) => { error = found.message; } })) {
  console.log(JSON.stringify({ message }));
}
console.log(JSON.stringify({ message, error, ended: true }));
