/** One connection of a Follower as server-sent events, read with `fetch`: it can send headers, EventSource cannot. */

import { retryAfter } from "./backoff.js";
import { HoldfastError, isRefused } from "./errors.js";
import { Final, parse } from "./final.js";
import { SseParser, readSse } from "./sse.js";

/**
 * Follow until the connection ends.
 * @param {import("./follow.js").Line} line
 * @returns {Promise<boolean>} whether nothing more will come. Rejects with Final, or with what cut the connection
 */
export async function overSse(line) {
  const response = await open(line);
  if (response.status === 204) return true;
  line.live();
  const parser = new SseParser(({ type, data, id }) => line.event({ type, data: parse(data), id }));
  await readSse(response.body, parser, () => {
    line.heard();
    if (parser.retry !== undefined) line.retry(parser.retry);
  });
  return line.ended === true && !line.follow;
}

async function open(line) {
  const headers = { accept: "text/event-stream" };
  if (line.cursor) headers["last-event-id"] = line.cursor;
  const response = await line.client.open("GET", line.path + query(line), { headers, signal: line.signal });
  if (response.status === 204) return response;
  if (isRefused(response.status)) throw new Final(await HoldfastError.from(response));
  const isStream = response.headers.get("content-type")?.startsWith("text/event-stream");
  if (response.ok && isStream) return response;
  // A proxy's or a captive portal's page is passing trouble as well.
  line.wait(retryAfter(response));
  response.body?.cancel().catch(() => {});
  throw new Error(`no stream: ${response.status}`);
}

function query({ follow, merge }) {
  const set = [...(follow ? ["follow=1"] : []), ...(merge ? [] : ["merge=0"])];
  return `/events${set.length ? `?${set.join("&")}` : ""}`;
}
