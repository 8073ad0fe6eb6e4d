/**
 * Following one session over any number of connections.
 *
 * @typedef {"connecting" | "live" | "reconnecting" | "offline" | "done" | "failed"} FollowState
 *
 * @typedef {object} FollowedEvent
 * @property {string} type   `text.delta`, `generation.completed`, `caught_up`, `gap`, …
 * @property {object} data
 * @property {string} [id]   event id; `caught_up` has none
 *
 * @typedef {object} FollowOptions
 * @property {string} [after]      cursor: the last event id already seen. None = from the start
 * @property {boolean} [follow]    stay for later turns (default) or end with the running generation
 * @property {boolean} [merge]     false asks for the log as written, with no deltas joined on replay
 * @property {(event: FollowedEvent) => void} [onEvent]  what it throws ends the following and rejects `done`
 * @property {(state: FollowState, info: {error?: Error, retryInMs?: number}) => void} [onState]
 * @property {AbortSignal} [signal] same as calling close()
 */

import { backoff, pause, retryAfter } from "./backoff.js";
import { HoldfastError } from "./errors.js";
import { SseParser, readSse } from "./sse.js";
import { TERMINALS } from "./transcript.js";

/** The server says something every 12 s, if only `: ka`. This long without a byte means nobody is there any more. */
const SILENT_MS = 30_000;
/** Silence that makes a connection suspect when the page comes to the front: a keep-alive is overdue. */
const OVERDUE_MS = 14_000;
/** After `online` the old route is probably gone; anything not talking right now is opened anew. */
const AFTER_ONLINE_MS = 1_000;
const FIRST_WAIT_MS = 500;
/** Asking again cannot change these answers. All other statuses are passing trouble. */
const FINAL = new Set([400, 401, 403, 404, 410, 422]);

/** Ends only with 204, a final status, an error of the consumer, or close(); any other end of a connection is resumed. */
export class Follower {
  /** Id of the last event that was handed out. Valid at any time; pass it as `after` to go on elsewhere. */
  cursor;
  /** Resolves when the session is finished or close() was called; rejects with HoldfastError when it cannot go on. */
  done;

  #client;
  #path;
  #options;
  #state;
  #closed = new AbortController();
  #attempt = new AbortController();
  /** Aborts the wait between two attempts, and only that. */
  #nap = null;
  /** The attempt was given up in favour of a better one: no wait before it. */
  #hurry = false;
  #lastByte = 0;
  /** Attempts that brought no event, in a row. */
  #failures = 0;
  #retryMs = FIRST_WAIT_MS;
  /** The answer that was refused last, for its Retry-After. */
  #refused = null;
  /** Whether the last event of the log seen here ended a generation. */
  #ended = false;

  constructor(client, path, options) {
    this.#client = client;
    this.#options = { follow: true, merge: true, onEvent() {}, onState() {}, ...options };
    this.#path = path + query(this.#options);
    this.cursor = options.after ?? null;
    this.done = this.#run();
    // Looking at `done` is optional: states tell the same.
    this.done.catch(() => {});
  }

  /** The current FollowState. */
  get state() {
    return this.#state;
  }

  /** Stop following. Does not stop the generation. */
  close() {
    this.#closed.abort();
    this.#attempt.abort();
    this.#nap?.abort();
  }

  /** Try again now: ends a wait, or replaces a connection that has been silent for `silentMs`. */
  wake(silentMs = Infinity) {
    if (this.#nap) return this.#nap.abort();
    if (Date.now() - this.#lastByte <= silentMs) return;
    this.#hurry = true;
    this.#attempt.abort();
  }

  async #run() {
    const unwatch = this.#watchSurroundings();
    try {
      this.#report("connecting");
      while (!this.#closed.signal.aborted && !(await this.#connect())) await this.#wait();
      if (!this.#closed.signal.aborted) this.#report("done");
    } catch (error) {
      this.#report("failed", { error });
      throw error;
    } finally {
      unwatch();
    }
  }

  /** One connection, to its end. True: nothing more will come. Throws what no further attempt can mend. */
  async #connect() {
    const attempt = (this.#attempt = new AbortController());
    const guard = watchdog(SILENT_MS, attempt);
    this.#lastByte = Date.now();
    this.#refused = null;
    this.#failures++;
    try {
      const parser = new SseParser((block) => this.#take(block));
      const response = await this.#open(attempt.signal);
      if (response.status === 204) return true;
      this.#report("live");
      await readSse(response.body, parser, () => this.#heard(guard, parser));
      return this.#ended && !this.#options.follow;
    } catch (error) {
      if (error instanceof Final) throw error.cause;
      return false;
    } finally {
      guard.stop();
    }
  }

  async #open(signal) {
    const headers = { accept: "text/event-stream" };
    if (this.cursor) headers["last-event-id"] = this.cursor;
    const response = await this.#client.open("GET", this.#path, { headers, signal });
    if (response.status === 204) return response;
    if (FINAL.has(response.status)) throw new Final(await HoldfastError.from(response));
    const isStream = response.headers.get("content-type")?.startsWith("text/event-stream");
    if (response.ok && isStream) return response;
    // A proxy's or a captive portal's page is passing trouble as well.
    this.#refused = response;
    response.body?.cancel().catch(() => {});
    throw new Error(`no stream: ${response.status}`);
  }

  #heard(guard, parser) {
    this.#lastByte = Date.now();
    guard.reset();
    if (parser.retry !== undefined) this.#retryMs = parser.retry;
  }

  #take({ type, data, id }) {
    if (this.#closed.signal.aborted) return;
    try {
      this.#options.onEvent({ type, data: JSON.parse(data), id });
    } catch (error) {
      // Going on would leave the consumer with a hole it does not know of.
      throw new Final(error);
    }
    this.#failures = 0;
    if (!id) return;
    this.cursor = id;
    this.#ended = Object.hasOwn(TERMINALS, type);
  }

  async #wait() {
    if (this.#closed.signal.aborted) return;
    const wait = Math.max(backoff(Math.max(0, this.#failures - 1), this.#retryMs), retryAfter(this.#refused));
    const retryInMs = this.#hurry ? 0 : wait;
    this.#hurry = false;
    this.#report(isOffline() ? "offline" : "reconnecting", { retryInMs });
    this.#nap = new AbortController();
    // Also while offline: browsers believe they are offline next to a server that can be reached.
    await pause(retryInMs, this.#nap.signal);
    this.#nap = null;
  }

  #report(state, info = {}) {
    if (state === this.#state) return;
    this.#state = state;
    this.#options.onState(state, info);
  }

  /** A network that comes back and a page that comes to the front are better advice than any timer. */
  #watchSurroundings() {
    const stop = new AbortController();
    const on = (target, name, act) => target?.addEventListener?.(name, act, { signal: stop.signal });
    on(globalThis, "online", () => this.wake(AFTER_ONLINE_MS));
    on(globalThis, "offline", () => this.#state === "reconnecting" && this.#report("offline"));
    on(globalThis.document, "visibilitychange", () => document.visibilityState === "visible" && this.wake(OVERDUE_MS));
    on(this.#options.signal, "abort", () => this.close());
    if (this.#options.signal?.aborted) this.close();
    return () => stop.abort();
  }
}

/** Carries an error that ends the following past those that only end a connection. */
class Final extends Error {
  constructor(cause) {
    super("final", { cause });
  }
}

/** Aborts `controller` when reset() has not been called for `ms`. Runs from the start: a connect can hang too. */
function watchdog(ms, controller) {
  let timer;
  const stop = () => clearTimeout(timer);
  const reset = () => {
    stop();
    timer = setTimeout(() => controller.abort(), ms);
  };
  reset();
  return { reset, stop };
}

const isOffline = () => globalThis.navigator?.onLine === false;

function query({ follow, merge }) {
  const set = [...(follow ? ["follow=1"] : []), ...(merge ? [] : ["merge=0"])];
  return set.length ? `?${set.join("&")}` : "";
}
