/**
 * LangGraph's JavaScript SDK as its users call it. Arguments: a list of jobs as JSON, run at the same time. A job:
 * `{url, thread, assistant, payload}` streams a run; with `cancel` it cancels it at the first piece of a message; with
 * `run` it joins that run instead, from `after` on. A line of JSON for each job, in their order, when all are over.
 */

import { Client } from "@langchain/langgraph-sdk";

async function work({ url, thread, assistant, payload, cancel, run, after }) {
  const client = new Client({ apiUrl: url, apiKey: null, callerOptions: { maxRetries: 0 } });
  const done = { parts: [], run: null, status: null, error: null };
  const onRunCreated = ({ run_id }) => (done.run = run_id);
  try {
    const parts = run
      ? client.runs.joinStream(thread, run, { lastEventId: after, streamMode: payload.streamMode })
      : client.runs.stream(thread, assistant, { ...payload, onRunCreated });
    for await (const { id, event, data } of parts) {
      if (cancel && event === "messages" && !done.parts.some((part) => part.event === event))
        await client.runs.cancel(thread, done.run);
      done.parts.push({ id, event, data });
    }
    if (done.run && ["end", "error"].includes(done.parts.at(-1)?.event)) done.status = (await client.runs.get(thread, done.run)).status;
  } catch (error) {
    done.error = String(error);
  }
  return done;
}

for (const done of await Promise.all(JSON.parse(process.argv[2]).map(work))) console.log(JSON.stringify(done));
