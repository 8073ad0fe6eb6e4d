/** The list of recent sessions: beside the conversation on a wide screen, over it on a narrow one. */

import { byId, el, icon } from "./dom.js";
import { titles } from "./titles.js";

const WIDE = matchMedia("(min-width: 60rem)");
const OLD = [[60, 60, "min"], [3600, 24, "h"], [86400, 7, "d"]];
const SURE_MS = 3000;

export class Drawer {
  #panel = byId("drawer");
  #list = byId("sessions");
  #note = byId("sessions-note");
  #toggle = byId("drawer-toggle");
  #open = false;
  #current = "";

  /** @param {{client: import("./holdfast.js").Holdfast, removed: (id: string) => void}} with_ */
  constructor({ client, removed }) {
    this.client = client;
    this.removed = removed;
    this.#toggle.addEventListener("click", () => this.set(!this.#open));
    byId("scrim").addEventListener("click", () => this.set(false));
    this.#list.addEventListener("click", (event) => event.target.closest("a") && this.#picked());
    WIDE.addEventListener("change", () => this.set(WIDE.matches));
    this.set(WIDE.matches);
  }

  /** Whether it covers the conversation right now. */
  get covers() {
    return this.#open && !WIDE.matches;
  }

  set(open) {
    this.#open = open;
    document.body.dataset.drawer = open ? "open" : "closed";
    this.#panel.inert = !open;
    this.#toggle.setAttribute("aria-expanded", String(open));
    byId("main").inert = this.covers;
    if (open) this.refresh();
    else if (this.#panel.contains(document.activeElement)) this.#toggle.focus();
  }

  set current(id) {
    this.#current = id;
    for (const link of this.#list.querySelectorAll("a")) mark(link, id);
  }

  /** Ask for the list again. A failure leaves what is shown. */
  async refresh() {
    if (!this.#open) return;
    try {
      const { sessions } = await this.client.list({ limit: 30 });
      this.#list.replaceChildren(...sessions.map((session) => this.#row(session)));
      this.#note.textContent = sessions.length ? "" : "Conversations appear here.";
    } catch {
      if (!this.#list.children.length) this.#note.textContent = "The list cannot be loaded right now.";
    }
  }

  #picked() {
    if (this.covers) this.set(false);
  }

  #row({ id, state, model, created }) {
    const title = titles.get(id) ?? `Conversation ${id.slice(0, 6)}`;
    const link = el("a", { href: `#${id}`, "data-session": id, "data-session-state": state },
      el("span.title", {}, title), el("span.sub", {}, [stateWord(state), model, age(created)].filter(Boolean).join(" · ")));
    mark(link, this.#current);
    return el("li", {}, link, this.#removeButton(id, title));
  }

  /** Deleting wants a second click, and forgets the first after a moment. */
  #removeButton(id, title) {
    const button = el("button.quiet.remove", { type: "button", "aria-label": `Delete ${title}`, title: "Delete" }, icon("bin"));
    button.addEventListener("click", () => {
      if (button.classList.contains("sure")) return this.#remove(id, button);
      button.classList.add("sure");
      button.replaceChildren("Delete?");
      setTimeout(() => {
        button.classList.remove("sure");
        button.replaceChildren(icon("bin"));
      }, SURE_MS);
    });
    return button;
  }

  async #remove(id, button) {
    button.disabled = true;
    await this.client.remove(id).catch(() => {});
    titles.forget(id);
    this.removed(id);
    this.refresh();
  }
}

function mark(link, current) {
  if (link.dataset.session === current) link.setAttribute("aria-current", "page");
  else link.removeAttribute("aria-current");
}

const stateWord = (state) => ({ queued: "waiting", running: "answering", waiting: "asks", failed: "failed" })[state] ?? "";

/** `created` is ms since 1970 or an ISO date. */
function age(created) {
  const seconds = (Date.now() - new Date(created).getTime()) / 1000;
  if (Number.isNaN(seconds)) return "";
  if (seconds < 60) return "now";
  const [unit, , name] = OLD.find(([size, count]) => seconds < size * count) ?? [];
  return unit ? `${Math.floor(seconds / unit)} ${name}` : new Date(created).toLocaleDateString();
}
