/**
 * Holdfast for browsers: start an answer, follow it, lose the network, go on exactly where you were.
 *
 *     const holdfast = new Holdfast({ base: "https://holdfast.example.com" });
 *     const { id } = await holdfast.create({ model: "openai/gpt-5", input: "Hello" });
 *     const transcript = new Transcript();
 *     const stream = holdfast.follow(id, { onEvent: ({ type, data }) => transcript.apply(type, data) });
 *     // later, or in another tab, or after a refresh: follow(id, { after: stream.cursor, … })
 *
 * Every call that changes something carries an Idempotency-Key and is repeated with the same key when no answer came,
 * so a message is never sent twice, however bad the network is.
 */

import { backoff, pause, retryAfter } from "./backoff.js";
import { HoldfastError, isPassing } from "./errors.js";
import { Follower } from "./follow.js";
import { newKey } from "./key.js";

export { HoldfastError } from "./errors.js";
export { TERMINALS, Transcript } from "./transcript.js";

const TRIES = 6;
const FIRST_WAIT_MS = 400;
const ANSWER_WITHIN_MS = 15_000;

/**
 * @typedef {object} Started what `create` and `send` resolve to
 * @property {string} id             the session
 * @property {string} generation     `g1`, `g2`, …
 * @property {string} state
 * @property {string} last_event_id  the log's end right now
 * @property {string} events_url
 */

export class Holdfast {
  /**
   * @param {object} [options]
   * @param {string} [options.base]   origin and prefix of the API; the page's own origin by default
   * @param {typeof fetch} [options.fetch]
   * @param {HeadersInit | (() => HeadersInit | Promise<HeadersInit>)} [options.headers] sent with every request;
   *   a function is asked again for each one, so a token can be renewed. Where a header cannot be
   *   sent (a browser's WebSocket), a stream token is asked for with them
   * @param {"sse" | "websocket"} [options.transport]  how sessions are followed, unless `follow` says otherwise
   * @param {typeof WebSocket} [options.WebSocket]
   */
  constructor({ base = "", fetch = globalThis.fetch.bind(globalThis), headers = {}, transport = "sse", WebSocket = globalThis.WebSocket } = {}) {
    this.base = base.replace(/\/+$/, "");
    this.fetch = fetch;
    this.headers = headers;
    this.transport = transport;
    this.WebSocket = WebSocket;
  }

  /**
   * Start a session with its first generation.
   * @param {object} what
   * @param {string} what.model                 `provider/name`
   * @param {string} [what.input]               what the user said, or
   * @param {{role: string, content: string}[]} [what.messages] a whole history that ends with the user, or with results of tools
   * @param {object} [what.options]             passed to the model or pipeline
   * @param {string} [what.pipeline]
   * @param {string} [what.id]                  your own session id, `[A-Za-z0-9_-]{1,64}`
   * @param {string} [what.idempotencyKey]      random by default; your own makes a repeat after a crash safe too
   * @param {AbortSignal} [what.signal]
   * @returns {Promise<Started>}
   */
  create({ idempotencyKey, signal, ...body }) {
    return this.#change("POST", "/v1/sessions", { body, key: idempotencyKey, signal });
  }

  /**
   * Say the next thing in a session. Rejects with code `generation_running` while an answer is being written, unless
   * `interrupt` cuts that answer off: what was said of it stays, and the next turn begins, both or neither.
   * @param {string} sessionId
   * @param {string} input
   * @param {{interrupt?: boolean, model?: string, options?: object, idempotencyKey?: string, signal?: AbortSignal}} [more]
   * @returns {Promise<Started>}
   */
  send(sessionId, input, { idempotencyKey, signal, ...more } = {}) {
    return this.#change("POST", `${this.path(sessionId)}/messages`, { body: { input, ...more }, key: idempotencyKey, signal });
  }

  /** `{id, state, generation, attempt, model, created, last_event_id, expired, messages, usage, …}` of a session. */
  show(sessionId, { signal } = {}) {
    return this.#request("GET", this.path(sessionId), { signal });
  }

  /**
   * The caller's sessions, the one with the newest turn first.
   * @param {{state?: string, limit?: number, cursor?: string}} [query]
   * @returns {Promise<{sessions: object[], next_cursor: string | null}>}
   */
  list(query = {}) {
    const set = Object.entries(query).filter(([, value]) => value != null);
    return this.#request("GET", `/v1/sessions${set.length ? `?${new URLSearchParams(set)}` : ""}`);
  }

  /**
   * Stop the running generation; what was said stays. Stopping what is over already is no error.
   * @param {string} sessionId
   * @param {{generation?: string, wait_s?: number, signal?: AbortSignal}} [what]  `generation`: only that one, otherwise
   *   rejects with `other_generation`
   */
  stop(sessionId, { generation, wait_s, signal } = {}) {
    return this.#change("POST", `${this.path(sessionId)}/stop`, { body: { generation, wait_s }, signal });
  }

  /** Answer a pipeline's question. The first answer wins; a later one rejects with code `question_gone`. */
  answer(sessionId, question, text, { signal } = {}) {
    return this.#change("POST", `${this.path(sessionId)}/answer`, { body: { question, text }, signal });
  }

  /** Stop and forget a session. One that is gone already is no error. */
  async remove(sessionId) {
    try {
      await this.#change("DELETE", this.path(sessionId), {});
    } catch (error) {
      if (error.status !== 404 && error.status !== 410) throw error;
    }
  }

  /**
   * Follow a session's events over cuts, sleep and changes of network: nothing lost, nothing twice.
   * @param {string} sessionId
   * @param {import("./follow.js").FollowOptions} [options]
   * @returns {Follower}
   */
  follow(sessionId, options = {}) {
    return new Follower(this, sessionId, options);
  }

  /** A short-lived credential for the URL of this session's stream; null where no credentials are sent or asked for. */
  async streamToken(sessionId, { signal } = {}) {
    if (typeof this.headers !== "function" && ![...new Headers(this.headers)].length) return null;
    const { stream_token } = await this.#request("POST", `${this.path(sessionId)}/token`, { signal });
    return stream_token;
  }

  /** Where a session is, under `base`. */
  path(sessionId) {
    return `/v1/sessions/${encodeURIComponent(sessionId)}`;
  }

  /** One request with the common headers, for whoever needs the raw response. */
  async open(method, where, { headers = {}, ...init } = {}) {
    const common = typeof this.headers === "function" ? await this.headers() : this.headers;
    init.signal?.throwIfAborted();
    const all = new Headers(common);
    for (const [name, value] of Object.entries(headers)) all.set(name, value);
    return this.fetch(this.base + where, { method, headers: all, cache: "no-store", ...init });
  }

  #change(method, where, { body, key = newKey(), signal }) {
    const headers = { "idempotency-key": key };
    if (body) headers["content-type"] = "application/json";
    return this.#request(method, where, { headers, body: body && JSON.stringify(body), signal });
  }

  /** Every request here may be repeated: it reads, or it has a key. So all of them are. */
  async #request(method, where, init = {}) {
    for (let tries = 0; ; tries++) {
      const { response, error, value } = await this.#once(method, where, init);
      if (value !== undefined) return value;
      init.signal?.throwIfAborted();
      if (response && !response.ok && !isPassing(response.status)) throw await HoldfastError.from(response);
      if (tries + 1 >= TRIES) throw error ? unreachable(error) : await HoldfastError.from(response);
      await pause(Math.max(backoff(tries, FIRST_WAIT_MS), retryAfter(response)), init.signal);
    }
  }

  /** An answer that was cut off while being read counts as none: `error` is set, `value` is not. */
  async #once(method, where, init) {
    const signals = [AbortSignal.timeout(ANSWER_WITHIN_MS)];
    if (init.signal) signals.push(init.signal);
    try {
      const response = await this.open(method, where, { ...init, signal: AbortSignal.any(signals) });
      return response.ok ? { response, value: await read(response) } : { response };
    } catch (error) {
      return { error };
    }
  }
}

async function read(response) {
  const text = await response.text();
  return text ? JSON.parse(text) : null;
}

function unreachable(cause) {
  return Object.assign(new HoldfastError("network", "The server cannot be reached"), { cause });
}
