// Shows runs by the AI SDK's own transport and reader; each time the message begins anew.
import { DefaultChatTransport, readUIMessageStream } from "ai";
import { eachRun } from "./runs.js";

const RESULTS = {
  "output-available": ({ output }) => ({ output }),
  "output-error": ({ errorText }) => ({ error: errorText }),
};

await eachRun(async (run) => {
  const transport = new DefaultChatTransport({ prepareReconnectToStreamRequest: () => ({ api: `${run}/aiSdk` }) });
  let [finished, ending] = [false, "completed"];
  const noting = new TransformStream({
    transform(chunk, controller) {
      if (chunk.type === "error") ending = chunk.errorText;
      if (chunk.type === "abort") ending = "cancelled";
      finished ||= chunk.type === "finish";
      controller.enqueue(chunk);
    },
  });
  const stream = (await transport.reconnectToStream({ chatId: run })).pipeThrough(noting);
  let message = { parts: [] };
  for await (message of readUIMessageStream({ stream, onError() {} })) {
    // what is shown in the meantime is not the end
  }
  if (!finished) return null;
  const texts = message.parts.filter((part) => part.type === "text").map((part) => part.text);
  const tools = message.parts.filter((part) => part.type.startsWith("tool-"));
  const calls = tools.map((part) => [part.toolCallId, part.type.slice(5), part.input, RESULTS[part.state]?.(part) ?? part.state]);
  return { ending, texts, calls };
});
