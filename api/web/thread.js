/** A transcript on the screen: one view per message, drawn at most once per frame, only where something changed. */

import { messageView } from "./message.js";
import { el } from "./dom.js";

export class Thread {
  #root;
  #acts;
  #views = [];
  #frame = 0;
  #transcript = null;
  #pending = null;
  #waiting = el("div.waiting", { hidden: true, role: "img", "aria-label": "Waiting for the answer" }, el("i"), el("i"), el("i"));

  /**
   * @param {HTMLElement} root  holds the articles
   * @param {object} acts       see messageView; and `drawn(transcript, sending)`, called after each drawing
   */
  constructor(root, acts) {
    this.#root = root;
    this.#acts = acts;
  }

  /** Show another transcript, or none. */
  show(transcript) {
    this.#transcript = transcript;
    this.#truncate(0);
    this.forget();
    this.draw();
  }

  /** Show a transcript that begins with what is on its way. */
  adopt(transcript) {
    this.#transcript = transcript;
    this.draw();
  }

  /** Something the user said that is on its way. It goes when the log brings it. */
  expect(text) {
    this.forget();
    this.#pending = el("article.message.pending", { "data-role": "user", "data-state": "sending", "aria-label": "Sending" },
      el("div.bubble", { dir: "auto" }, text));
    this.#pending.heard = this.#asked;
    this.draw();
  }

  forget() {
    this.#pending?.remove();
    this.#pending = null;
  }

  /** Whether something is on its way that the log has not brought yet. */
  get awaits() {
    return this.#pending !== null && this.#asked <= this.#pending.heard;
  }

  draw() {
    this.#frame ||= requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    this.#frame = 0;
    const messages = this.#transcript?.messages ?? [];
    if (!this.awaits) this.forget();
    const same = messages.findIndex((message, n) => this.#views[n]?.message !== message);
    // Whole and known: only the message before the new ones can have changed, and it may have been the newest.
    const from = Math.max(0, (same < 0 ? messages.length : same) - 1);
    if (same >= 0 || messages.length < this.#views.length) this.#truncate(same < 0 ? messages.length : same);
    for (let n = this.#views.length; n < messages.length; n++) this.#add(messages[n]);
    for (let n = from; n < messages.length; n++) this.#views[n].update(n === messages.length - 1);
    this.#tail();
    this.#acts.drawn(this.#transcript, this.#pending !== null);
  }

  /** Only the user's messages: an interruption may bring the end of an answer first. */
  get #asked() {
    return this.#transcript?.messages.filter(({ role }) => role === "user").length ?? 0;
  }

  #add(message) {
    const acts = this.#acts;
    const view = { message, ...messageView(message, acts) };
    this.#views.push(view);
    this.#root.append(view.element);
  }

  #truncate(count) {
    for (const view of this.#views.splice(count)) view.element.remove();
  }

  /** What is not in the log yet: the message on its way, and the sign that an answer is awaited. */
  #tail() {
    const waits = this.#pending || (this.#transcript?.live && this.#transcript.last.role !== "assistant");
    this.#waiting.hidden = !waits;
    const tail = [this.#pending, this.#waiting].filter(Boolean);
    // Moving a node that is in its place already would start its animation again.
    if (tail.some((node, n) => node !== this.#root.children[this.#views.length + n])) this.#root.append(...tail);
  }
}
