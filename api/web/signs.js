/** What the page says about itself: the state of the connection, and what went wrong. */

import { byId, el } from "./dom.js";

const WORDS = { connecting: "Connecting…", reconnecting: "Reconnecting…", offline: "Offline" };
/** A cut that is mended sooner is not worth a word. */
const TOLD_AFTER_MS = 700;
let telling;

/** @param {import("./follow.js").FollowState | ""} state */
export function connection(state) {
  const badge = byId("connection");
  const tell = () => { badge.textContent = WORDS[state] ?? ""; };
  document.body.dataset.connection = state;
  clearTimeout(telling);
  if (!WORDS[state] || badge.textContent) tell();
  else telling = setTimeout(tell, TOLD_AFTER_MS);
}

/** Say `text` above the input, or (empty) nothing any more. `act`: a button, as `[label, what it does]`. */
export function notice(text, act) {
  const box = byId("notice");
  box.hidden = !text;
  box.replaceChildren(el("span", {}, text), ...(act ? [el("button", { type: "button", onclick: act[1] }, act[0])] : []));
}
