/**
 * Commands on their way to a session over whichever socket is open. One that got no reply is sent again on the next
 * socket, as it was: its key makes the server carry it out once.
 */

import { backoff } from "./backoff.js";
import { HoldfastError, isPassingCode } from "./errors.js";

/** More than a person and a page have under way at once. */
const MOST = 8;
/** As long as an HTTP call of ours tries. Beyond it, what was said is better said again by whoever said it. */
const REPLY_WITHIN_MS = 60_000;
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
   * carried out), `too_many_commands`, and when the following is over, with what ended it. With the signal's reason when
   * that aborts; what was put on a socket by then may be carried out.
   * @param {object | (() => Promise<object>)} frame without `ref`; the same one is sent each time. One that has to be
   *   found out first is asked for at once and holds up those after it: all go in order
   * @param {{signal?: AbortSignal}} [more]
   */
  post(frame, { signal } = {}) {
    if (this.#closed) return Promise.reject(this.#closed);
    if (signal?.aborted) return Promise.reject(signal.reason);
    if (this.#sent.size >= MOST) return Promise.reject(new HoldfastError("too_many_commands", "Too much is on its way already"));
    const ref = ++this.#refs;
    return new Promise((resolve, reject) => {
      this.#sent.set(ref, { text: null, put: false, tries: 0, again: null, refusal: null, resolve, reject, stop: this.#watch(ref, signal) });
      this.#write(ref, frame);
    });
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
      one.put = false;
    }
    this.#flush();
  }

  detach() {
    this.#put = null;
  }

  /** Take a frame that answers a command. One that answers none (it was late, or has no ref) changes nothing. */
  settle(type, ref, data) {
    const one = this.#sent.get(ref);
    if (!one) return;
    if (type !== "error") return this.#forget(ref).resolve(data);
    one.refusal = new HoldfastError(data.code, data.message);
    if (isPassingCode(data.code) && ++one.tries < TRIES) this.#sendLater(one, data.retry_after_s);
    else this.#reject(ref, one.refusal);
  }

  /** Reject everything under way. */
  refuse(error) {
    for (const ref of [...this.#sent.keys()]) this.#forget(ref).reject(error);
  }

  /** Reject everything under way, and everything that is yet to come. */
  close(error) {
    this.#closed ??= error;
    this.refuse(error);
  }

  async #write(ref, frame) {
    try {
      const body = typeof frame === "function" ? await frame() : frame;
      const text = JSON.stringify({ ...body, ref });
      if (this.#sent.has(ref)) this.#sent.get(ref).text = text;
      this.#flush();
    } catch (error) {
      this.#reject(ref, error);
    }
  }

  /** Put on the socket what was not yet, up to what is not known yet. */
  #flush() {
    for (const one of this.#sent.values()) {
      if (!this.#put || one.text === null) return;
      if (one.put) continue;
      one.put = true;
      this.#put(one.text);
    }
  }

  #sendLater(one, atLeastS = 0) {
    one.again = setTimeout(() => this.#put?.(one.text), Math.max(backoff(one.tries - 1, FIRST_WAIT_MS), 1000 * atLeastS));
  }

  /** Gives up where no reply comes in time, or nobody wants it any more. @returns {() => void} ends the watch */
  #watch(ref, signal) {
    const late = () => this.#reject(ref, this.#sent.get(ref).refusal ?? new HoldfastError("network", "The server cannot be reached"));
    const unwanted = () => this.#reject(ref, signal.reason);
    const timer = setTimeout(late, REPLY_WITHIN_MS);
    signal?.addEventListener("abort", unwanted);
    return () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", unwanted);
    };
  }

  /** Those that it held up go on. */
  #reject(ref, error) {
    this.#forget(ref)?.reject(error);
    this.#flush();
  }

  #forget(ref) {
    const one = this.#sent.get(ref);
    this.#sent.delete(ref);
    clearTimeout(one?.again);
    one?.stop();
    return one;
  }
}
