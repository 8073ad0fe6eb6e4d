/**
 * AG-UI's JavaScript client as its users call it. Arguments: a list of jobs as JSON, run at the same time. A job:
 * `{thread, messages, runs: [{url, input, add, resume}]}`, run after run with one agent; `input` is what `runAgent` is
 * given, `add` a message before it, `resume` the answer to what the run before was interrupted for. A line of JSON for
 * each job, in their order, when all are over: for each run its `events`, the `error` it was rejected with, and the
 * agent's `messages` and `interrupts` then.
 */

import { HttpAgent } from "@ag-ui/client";

process.on("unhandledRejection", () => {}); // the client leaves one behind where a stream breaks off

async function work({ thread, messages, runs }) {
  const agent = new HttpAgent({ url: "", threadId: thread, initialMessages: messages });
  const done = [];
  for (const { url, input, add, resume } of runs) {
    const events = [];
    let error = null;
    agent.url = `${url}/ag-ui`;
    if (add) agent.addMessage(add);
    const answered = resume && [{ interruptId: agent.pendingInterrupts[0].id, status: "resolved", payload: resume }];
    try {
      await agent.runAgent({ ...input, ...(resume && { resume: answered }) }, { onEvent: ({ event }) => void events.push(event) });
    } catch (caught) {
      error = String(caught);
    }
    done.push({ events, error, messages: structuredClone(agent.messages), interrupts: agent.pendingInterrupts });
  }
  return done;
}

for (const done of await Promise.all(JSON.parse(process.argv[2]).map(work))) console.log(JSON.stringify(done));
