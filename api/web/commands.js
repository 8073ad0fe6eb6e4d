/** What is said to a session while it is followed: over its socket, or by HTTP where events come over SSE. */

import { newKey } from "./key.js";

export class Commands {
  #client;
  #id;
  /** Null: by HTTP. */
  #outbox;
  /** Name of the newest generation that was heard of here. */
  #generation;
  /** Messages without an answer: promises of what `send` resolves to. */
  #sending = new Set();

  /**
   * @param {import("./holdfast.js").Holdfast} client
   * @param {string} id  of the session
   * @param {import("./outbox.js").Outbox | null} outbox
   */
  constructor(client, id, outbox) {
    this.#client = client;
    this.#id = id;
    this.#outbox = outbox;
  }

  /** See Follower.send. */
  send(input, { interrupt, model, options, idempotencyKey = newKey(), signal } = {}) {
    const body = { interrupt, model, options };
    const started = this.#started(this.#outbox
      ? this.#outbox.post({ type: "message", key: idempotencyKey, input, ...body }, { signal })
      : this.#client.send(this.#id, input, { ...body, idempotencyKey, signal }));
    const answered = () => this.#sending.delete(started);
    this.#sending.add(started);
    started.then(answered, answered);
    return started;
  }

  /** See Follower.stop. */
  async stop({ generation, wait_s, signal } = {}) {
    const what = async () => ({ generation: generation ?? (await this.#meant(signal)), wait_s });
    if (!this.#outbox) return this.#client.stop(this.#id, { ...(await what()), signal });
    return this.#outbox.post(async () => ({ type: "stop", ...(await what()) }), { signal });
  }

  /** See Follower.answer. */
  answer(question, text, { signal } = {}) {
    if (!this.#outbox) return this.#client.answer(this.#id, question, text, { signal });
    return this.#outbox.post({ type: "answer", key: newKey(), question, text }, { signal });
  }

  /** Take the name of a generation from an event. A log that lost its end begins to count again from there. */
  heard({ type, data }) {
    if (type === "gap") this.#newest(data.transcript?.messages.at(-1)?.generation, data.reason === "lost");
    else this.#newest(data?.generation);
  }

  async #started(reply) {
    const started = await reply;
    this.#newest(started.generation);
    return started;
  }

  /** Events come later than a reply that knew more. */
  #newest(generation, whatever = false) {
    if (generation && (whatever || number(generation) > number(this.#generation))) this.#generation = generation;
  }

  /**
   * The generation that a stop without a name means: the one opened by the last message on its way, else the newest
   * heard of, else the one that the server has now. Without a name its repeat after a cut would hit a later one.
   */
  async #meant(signal) {
    const seen = this.#generation;
    const sent = await Promise.allSettled(this.#sending);
    const opened = sent.findLast(({ status }) => status === "fulfilled")?.value.generation;
    return opened ?? seen ?? (await this.#client.show(this.#id, { signal })).generation;
  }
}

/** `g12` → 12; 0 for none. */
const number = (generation) => Number(generation?.slice(1) ?? 0);
