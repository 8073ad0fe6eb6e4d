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
 * @property {"sse" | "websocket"} [transport]  the client's by default
 *
 * @typedef {object} Line  what one connection has to know, and tells. Meaningless once `signal` is aborted
 * @property {import("./holdfast.js").Holdfast} client
 * @property {string} id          of the session
 * @property {string} path        of the session, under `client.base`
 * @property {boolean} follow
 * @property {boolean} merge
 * @property {string | null} cursor  the last event id that was handed out
 * @property {boolean | undefined} ended  whether the last event of the log ended a generation; undefined before the first
 * @property {Outbox} outbox      commands that are to go over the connection, where it can carry them
 * @property {AbortSignal} signal aborted: give this connection up
 * @property {() => void} live    it stands
 * @property {() => void} heard   a sign of life
 * @property {(event: FollowedEvent) => void} event
 * @property {(ms: number) => void} retry  wait that long before the next connection, more after several failures
 * @property {(ms: number) => void} wait   wait at least that long, this once
 * @property {() => Promise<boolean>} isOver  ask whether the cursor is the end of a finished session. Rejects where that cannot be told
 */

import { backoff, pause } from "./backoff.js";
import { Commands } from "./commands.js";
import { HoldfastError } from "./errors.js";
import { Final } from "./final.js";
import { Outbox } from "./outbox.js";
import { overSocket } from "./over-socket.js";
import { overSse } from "./over-sse.js";
import { TERMINALS } from "./transcript.js";
import { isOffline, watchdog, watchSurroundings } from "./watch.js";

const TRANSPORTS = { sse: overSse, websocket: overSocket };

/** The server says something every 12 s, if only a keep-alive. This long without a byte means nobody is there any more. */
const SILENT_MS = 30_000;
/** Silence that makes a connection suspect when the page comes to the front: a keep-alive is overdue. */
const OVERDUE_MS = 14_000;
/** After `online` the old route is probably gone; anything not talking right now is opened anew. */
const AFTER_ONLINE_MS = 1_000;
const FIRST_WAIT_MS = 500;

/** Ends only with a finished session, a final refusal, an error of the consumer, or close(); any other end of a connection is resumed. */
export class Follower {
  /** Id of the last event that was handed out. Valid at any time; pass it as `after` to go on elsewhere. */
  cursor;
  /** Resolves when the session is finished or close() was called; rejects with HoldfastError when it cannot go on. */
  done;

  #client;
  #id;
  #options;
  #state;
  #closed = new AbortController();
  #attempt = new AbortController();
  /** Aborts the wait between two attempts, and only that. */
  #nap = null;
  /** The attempt was given up in favour of a better one: no wait before it. */
  #hurry = false;
  #lastHeard = 0;
  /** Attempts that brought no event, in a row. */
  #failures = 0;
  #retryMs = FIRST_WAIT_MS;
  /** What the last attempt was told to wait at least, in ms. */
  #notBefore = 0;
  /** Whether the last event of the log seen here ended a generation; undefined before the first one. */
  #ended;
  /** What the consumer threw, as `{error}`. */
  #thrown = null;
  #outbox = new Outbox();
  #commands;

  constructor(client, id, options) {
    this.#client = client;
    this.#id = id;
    this.#options = { follow: true, merge: true, transport: client.transport, onEvent() {}, onState() {}, ...options };
    if (!Object.hasOwn(TRANSPORTS, this.#options.transport)) throw new TypeError(`no transport ${this.#options.transport}`);
    this.#commands = new Commands(client, id, this.#options.transport === "websocket" ? this.#outbox : null);
    this.cursor = options.after ?? null;
    this.done = this.#run();
    // Looking at `done` is optional: states tell the same.
    this.done.catch(() => {});
  }

  /** The current FollowState. */
  get state() {
    return this.#state;
  }

  /** Stop following; nothing is told any more. Does not stop the generation. */
  close() {
    this.#closed.abort();
    this.#attempt.abort();
    this.#nap?.abort();
  }

  /** Try again now: ends a wait, or replaces a connection that has been silent for `silentMs`. */
  wake(silentMs = Infinity) {
    if (this.#nap) return this.#nap.abort();
    if (Date.now() - this.#lastHeard <= silentMs) return;
    this.#hurry = true;
    this.#attempt.abort();
  }

  /**
   * Say the next thing. Like the other commands it goes over the socket that is followed (after a cut over the next one,
   * with the same key, so that it is carried out once), and by HTTP where events come over SSE.
   * @param {string} input
   * @param {{interrupt?: boolean, model?: string, options?: object, idempotencyKey?: string, signal?: AbortSignal}} [more] see Holdfast.send
   * @returns {Promise<import("./holdfast.js").Started>} rejects with HoldfastError, over a socket also with `closed`
   *   when the following is over
   */
  send(input, more) {
    return this.#commands.send(input, more);
  }

  /**
   * Stop the generation that runs; what was said stays. With messages on their way it waits for their answers: meant is
   * what they open. Rejects with `other_generation` when another one runs by now.
   * @param {{generation?: string, wait_s?: number, signal?: AbortSignal}} [what]
   */
  stop(what) {
    return this.#commands.stop(what);
  }

  /**
   * Answer a question. The first answer wins; a later one rejects with `question_gone`.
   * @param {string} question its id
   * @param {string} text
   * @param {{signal?: AbortSignal}} [more]
   */
  answer(question, text, more) {
    return this.#commands.answer(question, text, more);
  }

  async #run() {
    const unwatch = this.#watch();
    try {
      this.#report("connecting");
      while (!this.#closed.signal.aborted && !(await this.#connect())) await this.#wait();
      this.#outbox.close(new HoldfastError("closed", "The session is not followed any more"));
      if (!this.#closed.signal.aborted) this.#report("done");
    } catch (error) {
      this.#outbox.close(error);
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
    this.#lastHeard = Date.now();
    this.#notBefore = 0;
    this.#failures++;
    const over = await this.#end(attempt.signal, guard);
    if (this.#thrown) throw this.#thrown.error;
    return over;
  }

  async #end(signal, guard) {
    try {
      const connection = TRANSPORTS[this.#options.transport](this.#line(signal, guard));
      return await Promise.race([connection, aborted(signal)]);
    } catch (error) {
      if (error instanceof Final && !this.#closed.signal.aborted) throw error.cause;
      return false;
    } finally {
      guard.stop();
    }
  }

  /** @returns {Line} */
  #line(signal, guard) {
    const follower = this;
    const { follow, merge } = this.#options;
    const current = (act) => (told) => signal.aborted || act(told);
    return {
      client: this.#client, id: this.#id, path: this.#client.path(this.#id), follow, merge, cursor: this.cursor, outbox: this.#outbox, signal,
      get ended() { return follower.#ended; },
      live: current(() => this.#report("live")),
      heard: current(() => {
        this.#lastHeard = Date.now();
        guard.reset();
      }),
      event: current((event) => this.#take(event)),
      retry: current((ms) => { this.#retryMs = ms; }),
      wait: current((ms) => { this.#notBefore = ms; }),
      isOver: () => this.#isOver(signal),
    };
  }

  #take(event) {
    const { type, id } = event;
    this.#failures = 0;
    this.#commands.heard(event);
    try {
      this.#options.onEvent(event);
    } catch (error) {
      // Going on would leave the consumer with a hole it does not know of.
      this.#thrown = { error };
      throw new Final(error);
    }
    if (!id) return;
    this.cursor = id;
    this.#ended = Object.hasOwn(TERMINALS, type);
  }

  async #isOver(signal) {
    const { state, last_event_id } = await this.#client.show(this.#id, { signal });
    return !signal.aborted && Object.values(TERMINALS).includes(state) && last_event_id === this.cursor;
  }

  async #wait() {
    if (this.#closed.signal.aborted) return;
    const wait = Math.max(backoff(Math.max(0, this.#failures - 1), this.#retryMs), this.#notBefore);
    const retryInMs = this.#hurry ? 0 : wait;
    this.#hurry = false;
    this.#report(isOffline() ? "offline" : "reconnecting", { retryInMs });
    this.#nap = new AbortController();
    // Also while offline: browsers believe they are offline next to a server that can be reached.
    await pause(retryInMs, this.#nap.signal);
    this.#nap = null;
  }

  #report(state, info = {}) {
    if (state === this.#state || this.#closed.signal.aborted) return;
    this.#state = state;
    this.#options.onState(state, info);
  }

  #watch() {
    const { signal } = this.#options;
    const close = () => this.close();
    signal?.addEventListener("abort", close);
    if (signal?.aborted) close();
    const unwatch = watchSurroundings({
      online: () => this.wake(AFTER_ONLINE_MS),
      offline: () => this.#state === "reconnecting" && this.#report("offline"),
      shown: () => this.wake(OVERDUE_MS),
    });
    return () => {
      unwatch();
      signal?.removeEventListener("abort", close);
    };
  }
}

/** Resolves to false, as a connection that ended, when it is given up: also where it does not listen to that. */
function aborted(signal) {
  return new Promise((resolve) => {
    if (signal.aborted) resolve(false);
    signal.addEventListener("abort", () => resolve(false));
  });
}
