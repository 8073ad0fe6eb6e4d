/** Where the user writes: the text, send or stop, and what should answer. */

import { byId } from "./dom.js";

const KEY = "holdfast.settings";
const DEFAULTS = { choice: "demo/lorem", custom: "", tokens: 200, rate: 30, seed: "", pipeline: "", transport: "sse" };

/**
 * What the conversation is about to do, and so what sending means. `hint` is told while something is written, `empty`
 * (by default the same) while nothing is.
 */
const MODES = {
  idle: { send: "Send", hint: "Enter sends, Shift + Enter makes a new line", placeholder: "Write a message" },
  sending: { send: "Send", hint: "Sending…", placeholder: "Write a message" },
  answering: { send: "Interrupt and send", hint: "Sending interrupts the answer", empty: "Esc stops the answer", placeholder: "Write a message" },
  asking: { send: "Answer", hint: "Sending answers the question", empty: "Esc stops", placeholder: "Answer the question" },
};

export class Composer {
  #form = byId("composer");
  #input = byId("input");
  #send = byId("send");
  #stop = byId("stop");
  #settings = byId("settings");
  #mode = "idle";

  /** @param {{submit: (text: string) => void, stop: () => void}} acts */
  constructor(acts) {
    this.acts = acts;
    this.#form.addEventListener("submit", (event) => this.#submit(event));
    this.#input.addEventListener("keydown", (event) => this.#key(event));
    this.#input.addEventListener("input", () => this.#fit());
    this.#stop.addEventListener("click", () => acts.stop());
    this.#settings.addEventListener("input", () => this.#settingsChanged());
    this.#settings.addEventListener("submit", (event) => event.preventDefault());
    this.#settings.addEventListener("toggle", (event) => event.newState === "open" && this.#placeSettings());
    this.#restore();
    this.#fit();
  }

  /** What `create` and `send` need besides the text. */
  get choice() {
    const { choice, custom, tokens, rate, seed, pipeline } = this.#read();
    const model = choice === "other" ? custom.trim() || DEFAULTS.choice : choice;
    const options = { tokens: number(tokens, 200), rate: number(rate, 30), seed: number(seed, Math.floor(Math.random() * 1e6)) };
    return { model, ...(model === "demo/lorem" ? { options } : {}), ...(pipeline.trim() ? { pipeline: pipeline.trim() } : {}) };
  }

  /** How the page follows sessions and speaks to them. */
  get transport() {
    return this.#read().transport;
  }

  /** One of MODES. */
  set mode(mode) {
    if (mode === this.#mode) return;
    this.#mode = mode;
    this.stopping = false;
    this.#input.placeholder = MODES[mode].placeholder;
    this.#label();
  }

  set stopping(stopping) {
    this.#stop.disabled = stopping;
  }

  /** Replace what is written, for example by what could not be sent. */
  fill(text) {
    this.#input.value = text;
    this.#fit();
  }

  get text() {
    return this.#input.value;
  }

  focus() {
    // On a phone this would open the keyboard over the answer.
    if (matchMedia("(hover: hover)").matches) this.#input.focus();
  }

  #submit(event) {
    event.preventDefault();
    const text = this.#input.value;
    if (!text.trim() || this.#mode === "sending") return;
    this.fill("");
    this.acts.submit(text);
  }

  /** Enter that ends a composition (Japanese, Chinese, …) is no Enter. */
  #key(event) {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    this.#form.requestSubmit();
  }

  /** Which buttons there are, and what they are called. Nothing to send while an answer is written: only stopping. */
  #label() {
    const { send, hint, empty = hint } = MODES[this.#mode];
    const idle = this.#mode === "idle";
    const written = Boolean(this.#input.value.trim());
    const focused = document.activeElement;
    this.#form.dataset.mode = this.#mode;
    this.#form.dataset.written = String(written);
    this.#send.hidden = !idle && !written;
    this.#send.disabled = !written || this.#mode === "sending";
    this.#send.title = send;
    this.#send.setAttribute("aria-label", send);
    this.#stop.hidden = idle;
    byId("hint").textContent = written ? hint : empty;
    if (focused?.hidden) this.focus();
  }

  /** The height is for browsers without `field-sizing`. */
  #fit() {
    this.#label();
    if (CSS.supports("field-sizing", "content")) return;
    this.#input.style.height = "auto";
    this.#input.style.height = `${this.#input.scrollHeight}px`;
  }

  #read() {
    return { ...DEFAULTS, ...Object.fromEntries(new FormData(this.#settings)) };
  }

  #settingsChanged() {
    const settings = this.#read();
    store(settings);
    byId("model-name").textContent = settings.choice === "other" ? settings.custom.trim() || "other model" : settings.choice;
    byId("lorem").hidden = settings.choice !== "demo/lorem";
    byId("other").hidden = settings.choice !== "other";
  }

  #restore() {
    const stored = { ...DEFAULTS, ...recall() };
    for (const [name, value] of Object.entries(stored)) {
      const field = this.#settings.elements[name];
      if (field) field.value = value;
    }
    this.#settingsChanged();
  }

  #placeSettings() {
    const { left, top } = byId("model").getBoundingClientRect();
    this.#settings.style.left = `${left}px`;
    this.#settings.style.bottom = `${innerHeight - top + 8}px`;
  }
}

const number = (text, otherwise) => (String(text).trim() === "" || Number.isNaN(Number(text)) ? otherwise : Number(text));

/** Storage may be switched off; then choices last as long as the page. */
function store(settings) {
  try {
    localStorage.setItem(KEY, JSON.stringify(settings));
  } catch {}
}

function recall() {
  try {
    return JSON.parse(localStorage.getItem(KEY)) ?? {};
  } catch {
    return {};
  }
}
