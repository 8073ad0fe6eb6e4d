/** Reads a growing answer to screen readers in sentences: a live region told every token would stutter. */

const EVERY_MS = 1500;
const ENDINGS = { completed: "Answer complete.", failed: "The answer failed.", cancelled: "Answer interrupted." };

export class Announcer {
  #region;
  #generation = null;
  /** How much of the newest message's content was said, and by which attempt. */
  #said = 0;
  #attempt = 0;
  #state = "";
  #last = 0;

  /** @param {HTMLElement} region an aria-live=polite element */
  constructor(region) {
    this.#region = region;
  }

  /** Start over: another conversation is shown. */
  reset() {
    this.#generation = null;
  }

  /** Look at the newest message. One that was there before this call, whole or not, is not read from its start. */
  follow(message, known = false) {
    if (message?.role !== "assistant") return;
    if (message.generation !== this.#generation) this.#turnTo(message, known);
    if (message.attempt !== this.#attempt) this.#restart(message);
    if (message.state === "running") return this.#sentences(message.content);
    if (message.state === this.#state) return;
    this.#state = message.state;
    this.#say(`${message.content.slice(this.#said)} ${message.error?.message ?? ""} ${ENDINGS[message.state]}`);
  }

  /** Say something of the page itself. */
  tell(text) {
    this.#say(text);
  }

  #turnTo(message, known) {
    this.#generation = message.generation;
    this.#attempt = message.attempt;
    this.#said = known ? message.content.length : 0;
    this.#state = known ? message.state : "";
  }

  #restart(message) {
    this.#attempt = message.attempt;
    this.#said = 0;
  }

  #sentences(content) {
    if (Date.now() - this.#last < EVERY_MS) return;
    const fresh = content.slice(this.#said);
    const end = Math.max(...[". ", "! ", "? ", ": ", "\n"].map((mark) => fresh.lastIndexOf(mark)));
    if (end < 0) return;
    this.#said += end + 1;
    this.#say(fresh.slice(0, end + 1));
  }

  #say(text) {
    this.#last = Date.now();
    this.#region.textContent = text.replace(/[*_`#>|]+/g, "").trim();
  }
}
