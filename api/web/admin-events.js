/** One session's events, as they come. */

import { el } from "./dom.js";
import { TERMINALS } from "./transcript.js";

const ROWS = 300;
/** Of one row; of what grows, the end is shown. */
const CHARS = 600;
const DELTAS = new Set(["text.delta", "reasoning.delta"]);

export class Events {
  #list;
  #follower = null;
  /** The row that deltas of one kind go on in, until something else comes. */
  #open = null;
  #caughtUp = false;
  /** The newest event is kept in sight, until somebody scrolls up. */
  #sticks = true;
  #top = 0;

  /** @param {HTMLOListElement} list */
  constructor(list, { onState, onEnd }) {
    this.#list = list;
    this.onState = onState;
    this.onEnd = onEnd;
    list.addEventListener("scroll", () => {
      const { scrollTop, scrollHeight, clientHeight } = list;
      if (scrollHeight - scrollTop - clientHeight < 40) this.#sticks = true;
      else if (scrollTop < this.#top) this.#sticks = false;
      this.#top = scrollTop;
    });
    new ResizeObserver(() => this.#stick()).observe(list);
  }

  follow(client, id) {
    this.close();
    this.#caughtUp = false;
    this.#sticks = true;
    this.#follower = client.follow(id, {
      onEvent: (event) => this.#take(event),
      onState: (state, { error }) => this.onState(state, error),
    });
  }

  close() {
    this.#follower?.close();
    this.#follower = this.#open = null;
    this.#list.replaceChildren();
  }

  #take({ type, data, id }) {
    if (DELTAS.has(type)) this.#grow(type, data.text, id);
    else this.#add(type, words(type, data), id);
    if (type === "caught_up") this.#caughtUp = true;
    while (this.#list.children.length > ROWS) this.#list.firstElementChild.remove();
    this.#stick();
    if (this.#caughtUp && (Object.hasOwn(TERMINALS, type) || type === "message")) this.onEnd();
  }

  #stick() {
    if (this.#sticks) this.#list.scrollTop = this.#list.scrollHeight;
  }

  #grow(type, text, id) {
    if (this.#open?.type !== type) {
      const row = this.#add(type, "", id);
      this.#open = { type, row, text: "", events: 0 };
    }
    const open = this.#open;
    open.text = (open.text + text).slice(-CHARS);
    open.events++;
    open.row.querySelector(".seq").textContent = seq(id);
    open.row.querySelector(".times").textContent = open.events > 1 ? `×${open.events}` : "";
    open.row.querySelector(".words").textContent = open.text;
  }

  #add(type, text, id) {
    this.#open = null;
    const head = el("span.head", {}, el("span.type", {}, type), el("span.times"), el("span.seq", { title: id ?? "not stored" }, seq(id)));
    const row = el("li", { "data-type": type }, head, el("span.words", {}, text.slice(0, CHARS)));
    this.#list.append(row);
    return row;
  }
}

/** The number within its epoch: what people compare. */
const seq = (id) => (id ? `#${id.split("-")[1]}` : "");

function words(type, data) {
  if (type === "message") return `${data.role}: ${data.content}`;
  if (type === "status") return [data.text, data.state].filter(Boolean).join(" · ");
  if (type === "caught_up") return "what follows came live";
  if (type === "gap") return `${data.reason}: events are missing`;
  const { prev: _, ...rest } = data ?? {};
  return Object.entries(rest).map(([name, value]) => `${name} ${typeof value === "object" ? JSON.stringify(value) : value}`).join(" · ");
}
