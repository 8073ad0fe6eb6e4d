/** One connection of a Follower as a WebSocket: events come in, commands go out. */

import { afterClose, nameOfClose } from "./close-codes.js";
import { HoldfastError, isRefused } from "./errors.js";
import { Final, parse } from "./final.js";

/** A browser tells of an error and of the close in one go; Node, where no connection came about, tells of the error alone. */
const CLOSED_WITHIN_MS = 50;

/** Frames that belong to a command. */
const REPLIES = new Set(["reply", "error", "pong"]);

/**
 * Follow until the connection ends.
 * @param {import("./follow.js").Line} line
 * @returns {Promise<boolean>} whether nothing more will come. Rejects with Final
 */
export async function overSocket(line) {
  const credential = await token(line);
  // An abort from before there is anything to listen to it.
  if (line.signal.aborted) return false;
  const socket = dial(line, credential);
  return new Promise((resolve, reject) => {
    const listening = new AbortController();
    const on = (target, name, act) => target.addEventListener(name, act, { signal: listening.signal });
    /** What has arrived already is not listened to any more either. */
    const settle = (act) => (value) => {
      if (listening.signal.aborted) return;
      listening.abort();
      line.outbox.detach();
      socket.close(1000);
      act(value);
    };
    const end = settle(resolve);
    const fail = settle(reject);
    const take = reader(line, end);
    on(socket, "open", () => line.outbox.attach((text) => socket.send(text)));
    on(socket, "message", ({ data }) => attempt(() => take(data), fail));
    on(socket, "close", ({ code, reason }) => attempt(() => end(closed(line, code, reason)), fail));
    on(socket, "error", () => setTimeout(end, CLOSED_WITHIN_MS, false));
    on(line.signal, "abort", () => end(false));
  });
}

/** Browsers send no headers of ours with a WebSocket: who is known by them gets a token for the URL instead. */
async function token({ client, id, signal }) {
  try {
    return await client.streamToken(id, { signal });
  } catch (error) {
    throw isRefused(error.status) ? new Final(error) : error;
  }
}

function dial({ client, path, cursor, merge }, token) {
  try {
    const url = new URL(`${client.base}${path}/ws`, globalThis.location?.href);
    url.protocol = url.protocol.replace("http", "ws");
    if (cursor) url.searchParams.set("after", cursor);
    if (token) url.searchParams.set("token", token);
    if (!merge) url.searchParams.set("merge", "0");
    return new client.WebSocket(url.href);
  } catch (error) {
    throw new Final(error);
  }
}

/**
 * What is done with each frame. A socket has no end of its own: without `follow` it is seen to here, once commands under
 * way have their replies. What comes between the end and those is not for this reader.
 */
function reader(line, end) {
  let caughtUp = false;
  let over = false;
  const leave = () => over && line.outbox.idle && end(true);
  const event = (what) => {
    line.event(what);
    caughtUp ||= what.type === "caught_up";
    if (line.follow || !caughtUp) return;
    over = line.ended === true;
    if (line.ended === undefined) line.isOver().then((yes) => { over ||= yes; leave(); }, () => end(false));
  };
  return (text) => {
    line.live();
    line.heard();
    const { type, data, id, ref } = parse(text);
    if (REPLIES.has(type)) line.outbox.settle(type, ref, data);
    else if (type !== "keep_alive" && !over) event({ type, data, id });
    leave();
  };
}

/** Nothing more will come? Throws Final where there is no coming back. */
function closed({ outbox }, code, reason) {
  const name = nameOfClose(code, reason);
  const status = code >= 4400 ? code - 4000 : 0;
  const error = new HoldfastError(name, `The server closed the connection: ${reason || name}`, status);
  const then = afterClose(code);
  if (then === "never") throw new Final(error);
  if (then === "again without") outbox.refuse(error);
  return false;
}

function attempt(act, fail) {
  try {
    act();
  } catch (error) {
    fail(error);
  }
}
