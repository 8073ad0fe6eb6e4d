/** The node as admins see it: sessions of everybody. Following and stopping are the ordinary client's, on other paths. */

import { HoldfastError } from "./errors.js";
import { Holdfast } from "./holdfast.js";

const KEY = "holdfast.admin.key";
const WITHIN_MS = 8_000;

/** The admin's key: in this tab alone, until it is closed. */
export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

export class AdminClient extends Holdfast {
  constructor() {
    super({ headers: () => (key.get() ? { authorization: `Bearer ${key.get()}` } : {}) });
  }

  path(sessionId) {
    return `/admin/api/sessions/${encodeURIComponent(sessionId)}`;
  }

  overview() {
    return this.#get("/admin/api/overview");
  }

  workers() {
    return this.#get("/admin/api/workers");
  }

  /** Live sessions of everybody; `state` may be empty. */
  live({ state, limit }) {
    return this.#get(`/admin/api/sessions?${new URLSearchParams({ ...(state && { state }), limit })}`);
  }

  detail(sessionId) {
    return this.#get(this.path(sessionId));
  }

  /** Once, and not again and again: who asks every two seconds has the next answer soon. */
  async #get(where) {
    const response = await this.open("GET", where, { signal: AbortSignal.timeout(WITHIN_MS) });
    if (!response.ok) throw await HoldfastError.from(response);
    return response.json();
  }
}
