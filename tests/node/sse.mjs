/**
 * Two clients of SSE that pages take in the place of a browser's EventSource, as their users call them.
 * Arguments: which one, URL, options as JSON. A line of JSON for each event as it comes, then one with how it ended.
 */

import { fetchEventSource } from "@microsoft/fetch-event-source";
import { EventSource } from "eventsource";

const TYPES = [
  "message", "generation.started", "status", "text.delta", "reasoning.delta", "tool.call", "tool.result", "source", "usage",
  "generation.completed", "generation.failed", "generation.cancelled", "caught_up", "gap",
];
const [which, url, options] = process.argv.slice(2);
const say = (line) => console.log(JSON.stringify(line));

/** Does nothing at the end: it asks again, and is told that there is no more. Its timers keep no process alive. */
function eventsource(url) {
  setInterval(() => null, 1000);
  return new Promise((resolve) => {
    const source = new EventSource(url);
    let broken = 0;
    for (const type of TYPES) {
      source.addEventListener(type, ({ data, lastEventId }) => say({ type, id: lastEventId, data: JSON.parse(data) }));
    }
    source.onerror = ({ code }) => {
      if (source.readyState === EventSource.CLOSED) resolve({ status: code ?? null, broken });
      broken += 1;
    };
  });
}

/** With its defaults, and without end where it meets errors; `hides` shows the page to nobody after so many events. */
async function fetcheventsource(url, { hides, once, ...request }) {
  const statuses = [];
  const errors = [];
  let seen = 0;
  const told = {
    ...request,
    fetch: async (...given) => {
      const response = await fetch(...given);
      statuses.push(response.status);
      return response;
    },
    onmessage: ({ event, id, data }) => {
      say({ type: event, id, data: JSON.parse(data) });
      seen += 1;
      if (seen === hides) hide(true).then(() => hide(false));
    },
    onerror: (error) => {
      errors.push(error.message);
      if (once) throw error;
    },
  };
  await fetchEventSource(url, told).catch(() => null);
  return { statuses, errors };
}

/** As a browser tells it; what is to happen then has its time. */
function hide(hidden) {
  document.hidden = hidden;
  document.dispatchEvent(new Event("visibilitychange"));
  return new Promise((resolve) => setTimeout(resolve, 50));
}

/** What it takes for granted of a page. */
globalThis.window = globalThis;
globalThis.document = Object.assign(new EventTarget(), { hidden: false });

const clients = { "eventsource": eventsource, "fetch-event-source": fetcheventsource };
say({ over: await clients[which](url, JSON.parse(options)) });
process.exit(0);
