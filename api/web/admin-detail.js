/** The panel of one session: its facts, the way to stop it, its events. */

import { Events } from "./admin-events.js";
import { span } from "./admin-words.js";
import { byId, el } from "./dom.js";

const LIVE = new Set(["queued", "running", "waiting"]);
/** `over`, `away`: the connection stands, but nothing comes over it. */
const FOLLOWING = { connecting: "connecting…", live: "live", over: "over; a next turn would be shown", away: "nothing comes at the moment", reconnecting: "connection lost, trying again…", offline: "offline", done: "over" };

export class Detail {
  #client;
  #id = "";
  #shown = null;
  /** Of the following, and the error that ended it. */
  #state = "";
  #error = null;
  /** The node could not say how the session is, when it was asked last. */
  #away = false;
  #events;

  /** @param {import("./admin-client.js").AdminClient} client  @param {{refused: (error: Error) => void}} acts */
  constructor(client, { refused }) {
    this.#client = client;
    this.refused = refused;
    this.#events = new Events(byId("events"), { onState: (state, error) => this.#following(state, error), onEnd: () => this.refresh() });
    byId("close").addEventListener("click", () => { location.hash = ""; });
    byId("stop-it").addEventListener("click", () => this.#ask());
    byId("sure-no").addEventListener("click", () => byId("sure").close());
    byId("sure-yes").addEventListener("click", () => this.#stop());
    document.addEventListener("keydown", (pressed) => {
      if (pressed.key === "Escape" && this.#id && !byId("sure").open) location.hash = "";
    });
  }

  get id() {
    return this.#id;
  }

  /** Show this session; none where `id` is empty. */
  open(id) {
    if (id === this.#id) return;
    this.#id = id;
    this.#shown = null;
    this.#away = false;
    this.#events.close();
    byId("detail").hidden = !id;
    document.body.classList.toggle("with-detail", Boolean(id));
    if (byId("sure").open) byId("sure").close();
    byId("facts").replaceChildren();
    byId("stop-it").hidden = true;
    note("");
    if (!id) return;
    byId("detail-title").textContent = byId("detail-title").title = id;
    this.#events.follow(this.#client, id);
    this.refresh();
  }

  async refresh() {
    const id = this.#id;
    if (!id) return;
    try {
      const detail = await this.#client.detail(id);
      if (id === this.#id) this.#show(detail);
    } catch (error) {
      if (id !== this.#id) return;
      if (error.status === 404) this.#gone();
      else {
        this.#away = true;
        this.#tellState();
        this.refused(error);
      }
    }
  }

  #show(detail) {
    this.#shown = detail;
    this.#away = false;
    this.#tellState();
    const live = LIVE.has(detail.state);
    const stop = byId("stop-it");
    stop.hidden = !live;
    stop.disabled = detail.stopping;
    stop.textContent = detail.stopping ? "Stopping…" : `Stop ${detail.generation}`;
    byId("facts").replaceChildren(...facts(detail, live).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
  }

  #gone() {
    byId("stop-it").hidden = true;
    note("There is no such session.");
  }

  #ask() {
    byId("sure-title").textContent = `Stop ${this.#shown.generation} of ${this.#id}?`;
    byId("sure").showModal();
  }

  /** The generation that was seen, and no later one. */
  async #stop() {
    const id = this.#id;
    byId("sure").close();
    byId("stop-it").disabled = true;
    note("");
    try {
      await this.#client.stop(id, { generation: this.#shown.generation });
    } catch (error) {
      if (id === this.#id) note(error.message);
    }
    this.refresh();
  }

  #following(state, error) {
    this.#state = state;
    this.#error = error;
    this.#tellState();
  }

  #tellState() {
    const standing = this.#away ? "away" : this.#shown && !LIVE.has(this.#shown.state) ? "over" : "live";
    const state = this.#state === "live" ? standing : this.#state;
    byId("stream-state").textContent = this.#error ? this.#error.message : FOLLOWING[state] ?? state;
    byId("stream-state").dataset.state = state;
  }
}

function note(text) {
  byId("detail-note").textContent = text;
}

function facts(detail, live) {
  const since = `${detail.state} for ${span(detail.state_ms)}`;
  const lease = detail.lease_ms === null ? el("span.bad", {}, "lease has run out") : `${span(detail.lease_ms)} of lease left`;
  return [
    ["State", el("span", {}, el("span.pill", { "data-state": detail.state }, detail.state), ` ${since.slice(detail.state.length + 1)}`)],
    ["Owner", detail.owner],
    ["Model", detail.model],
    ...(detail.pipeline && detail.pipeline !== "chat" ? [["Pipeline", detail.pipeline]] : []),
    ["Turn", `${detail.generation}, ${detail.attempt ? `attempt ${detail.attempt}` : "not begun"}${detail.crashes ? `, ${detail.crashes} crashed` : ""}`],
    ...(live && detail.worker ? [["Worker", el("span", {}, `${detail.worker}, `, lease)]] : []),
    ["Age", span(detail.age_ms)],
    ["Last event", detail.expired ? "expired" : `${detail.last_event_id}, ${span(detail.quiet_ms)} ago`],
    ["Readers", `${detail.readers} on this node`],
  ];
}
