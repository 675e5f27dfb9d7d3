// Shows runs by AG-UI's own agent, a new one each time, as the protocol knows no positions.
import { HttpAgent } from "@ag-ui/client";
import { eachRun } from "./runs.js";

// The agent leaves a rejected promise behind where a line breaks, which Node, unlike a browser, ends for.
process.on("unhandledRejection", (error) => {
  if (!(error instanceof TypeError)) throw error;
});

function resultOf(content) {
  return content.startsWith('{"error":') ? JSON.parse(content) : { output: content };
}

await eachRun(async (run) => {
  const agent = new HttpAgent({ url: `${run}/agUi`, fetch: (target, { headers, signal }) => fetch(target, { headers, signal }) });
  let ending = null;
  await agent.runAgent({}, {
    onRunFinishedEvent() { ending = "completed"; },
    onRunErrorEvent({ event }) {
      if (event.code === "FAILED") ending = event.message;
      if (event.code === "CANCELLED") ending = "cancelled";
    },
    onRunFailed: () => ({ stopPropagation: true }), // the line broke: it would be thrown, and printed
  });
  if (ending === null) return null;
  const results = new Map(agent.messages.filter((each) => each.role === "tool").map((each) => [each.toolCallId, resultOf(each.content)]));
  const told = agent.messages.filter((each) => each.role === "assistant");
  const texts = told.filter((each) => each.content).map((each) => each.content);
  const calls = told.flatMap((each) => each.toolCalls ?? []).map(
    ({ id, function: called }) => [id, called.name, JSON.parse(called.arguments), results.get(id) ?? null],
  );
  return { ending, texts, calls };
});
