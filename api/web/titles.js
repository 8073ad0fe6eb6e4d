/** How this browser calls its sessions: by the first thing that was said. The server keeps no titles. */

const KEY = "holdfast.titles";
const KEPT = 100;
const LENGTH = 80;

function read() {
  try {
    return JSON.parse(localStorage.getItem(KEY)) ?? {};
  } catch {
    return {};
  }
}

function write(all) {
  try {
    localStorage.setItem(KEY, JSON.stringify(Object.fromEntries(Object.entries(all).slice(-KEPT))));
  } catch {
    // No storage: sessions are shown by model and id.
  }
}

export const titles = {
  get: (id) => read()[id],
  set(id, text) {
    const all = read();
    const title = text.replace(/\s+/g, " ").trim().slice(0, LENGTH);
    if (title && all[id] !== title) write({ ...all, [id]: title });
  },
  forget(id) {
    const { [id]: _, ...others } = read();
    write(others);
  },
};
