/**
 * Commands on their way to a session over whichever socket is open. One that got no reply is sent again on the next
 * socket, as it was: its key makes the server carry it out once.
 */

import { backoff } from "./backoff.js";
import { HoldfastError } from "./errors.js";

/** More than a person and a page have under way at once. */
const MOST = 8;
/** As long as an HTTP call of ours tries. Beyond it, what was said is better said again by whoever said it. */
const REPLY_WITHIN_MS = 60_000;
/** Trouble of the server's that passes; any other error is an answer. */
const PASSING = new Set(["redis_unavailable", "internal"]);
const TRIES = 6;
const FIRST_WAIT_MS = 400;

export class Outbox {
  /** ref → what is under way, in the order of sending. */
  #sent = new Map();
  #refs = 0;
  /** Puts a text on the open socket; null without one. */
  #put = null;
  /** Why nothing can be sent any more; null while it can. */
  #closed = null;

  /**
   * Send one command; resolves to its reply's data.
   *
   * Rejects with HoldfastError: as the server refuses it, `network` after a minute without a reply (it may have been
   * carried out), `too_many_commands`, and when the following is over, with what ended it.
   * @param {object} frame without `ref`; the same one is sent each time
   */
  post(frame) {
    if (this.#closed) return Promise.reject(this.#closed);
    if (this.#sent.size >= MOST) return Promise.reject(new HoldfastError("too_many_commands", "Too much is on its way already"));
    const ref = ++this.#refs;
    return new Promise((resolve, reject) => {
      const late = setTimeout(() => this.#reject(ref, new HoldfastError("network", "The server cannot be reached")), REPLY_WITHIN_MS);
      const one = { text: JSON.stringify({ ...frame, ref }), type: frame.type, tries: 0, late, again: null, resolve, reject };
      this.#sent.set(ref, one);
      this.#put?.(one.text);
    });
  }

  /** Whether a command of this type has no reply yet. */
  awaits(type) {
    return [...this.#sent.values()].some((one) => one.type === type);
  }

  /** Whether every command has its reply. */
  get idle() {
    return this.#sent.size === 0;
  }

  /** A socket is open: everything without a reply goes over it. */
  attach(put) {
    this.#put = put;
    for (const one of this.#sent.values()) {
      clearTimeout(one.again);
      put(one.text);
    }
  }

  detach() {
    this.#put = null;
  }

  /** Take a frame that answers a command. One that answers none (it was late, or has no ref) changes nothing. */
  settle(type, ref, data) {
    const one = this.#sent.get(ref);
    if (!one) return;
    if (type !== "error") this.#forget(ref)?.resolve(data);
    else if (PASSING.has(data.code) && ++one.tries < TRIES) this.#sendLater(one);
    else this.#reject(ref, new HoldfastError(data.code, data.message));
  }

  /** Reject everything under way. */
  refuse(error) {
    for (const ref of [...this.#sent.keys()]) this.#reject(ref, error);
  }

  /** Reject everything under way, and everything that is yet to come. */
  close(error) {
    this.#closed ??= error;
    this.refuse(error);
  }

  #sendLater(one) {
    one.again = setTimeout(() => this.#put?.(one.text), backoff(one.tries - 1, FIRST_WAIT_MS));
  }

  #reject(ref, error) {
    this.#forget(ref)?.reject(error);
  }

  #forget(ref) {
    const one = this.#sent.get(ref);
    this.#sent.delete(ref);
    clearTimeout(one?.late);
    clearTimeout(one?.again);
    return one;
  }
}
