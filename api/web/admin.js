/** The admin page: asks the node every two seconds while somebody looks, and draws what it says. */

import { AdminClient, key } from "./admin-client.js";
import { Detail } from "./admin-detail.js";
import { Meter, Meters, total } from "./admin-rates.js";
import { showSessions, showWorkers } from "./admin-table.js";
import { StateTile, Tile } from "./admin-tiles.js";
import { count } from "./admin-words.js";
import { byId } from "./dom.js";

const EVERY_MS = 2_000;
const MINUTE_MS = 60_000;
const PAGE = 50;
const MOST = 200;

const client = new AdminClient();
const detail = new Detail(client, { refused });
const tiles = {
  live: new StateTile({ id: "live", label: "Live sessions", title: "Sessions with a live generation, by state" }),
  events: new Tile({ id: "events", label: "Events/s", title: "What all workers append to logs" }),
  turns: new Tile({ id: "turns", label: "Turns/min", title: "Generations that workers have begun in the last minute: new sessions, next turns, and further attempts" }),
  failures: new Tile({ id: "failures", label: "Failures/min", title: "Generations that have failed in the last minute", alarming: true }),
  delivered: new Tile({ id: "delivered", label: "Delivered/s", title: "Events given to readers of this node" }),
  readers: new Tile({ id: "readers", label: "Readers", title: "Clients that follow a session on this node" }),
  redis: new Tile({ id: "redis", label: "Redis, ms", title: "What one question to Redis takes, from this node" }),
};
const meters = { delivered: new Meter(), appended: new Meters(), attempts: new Meters(MINUTE_MS), failed: new Meters(MINUTE_MS) };

let limit = PAGE;
/** Of the next round. */
let timer = 0;
/** When what is shown was told; null: nothing is shown. */
let heardAt = null;
/** Number of the newest round: what an older one brings is no longer wanted. */
let round = 0;

byId("tiles").append(...Object.values(tiles).map((tile) => tile.node));

/** One round; the next one follows it, unless nobody looks. */
async function refresh() {
  clearTimeout(timer);
  const mine = ++round;
  try {
    const [overview, sessions, workers] = await Promise.all([client.overview(), client.live({ state: state(), limit }), client.workers(), detail.refresh()]);
    if (mine !== round) return;
    show(overview, sessions, workers);
    heardAt = new Date();
    if (!workers.workers.length) status("alarm", "no worker is alive: nobody answers");
    else status("live", overview.node.draining ? "this node is leaving" : overview.node.name);
  } catch (error) {
    if (mine !== round) return;
    if (refused(error)) return;
  }
  if (document.visibilityState === "visible") timer = setTimeout(refresh, EVERY_MS);
}

function show(overview, sessions, { workers, now, more }) {
  byId("door").hidden = true;
  byId("board").hidden = false;
  byId("leave").hidden = !key.get();
  route();
  const rates = showRates(overview, workers);
  showSessions(byId("sessions-table").tBodies[0], sessions.sessions, detail.id);
  showWorkers(byId("workers-table").tBodies[0], workers, rates, now);
  byId("sessions-note").textContent = sessionsNote(sessions, overview.live);
  byId("more").hidden = !sessions.next_cursor || limit >= MOST;
  byId("workers-note").textContent = workers.length ? (more ? `The ${workers.length} heard of last are shown.` : "") : "No worker is alive: nobody answers.";
  byId("workers-note").classList.toggle("bad", !workers.length);
}

/** Gives the events per second of each worker. */
function showRates({ node, live, now, redis_ms }, workers) {
  const of = (name) => workers.map((each) => ({ name: each.name, count: each.about[name] ?? 0, at: each.about.at ?? 0 }));
  const perMinute = (rate) => (rate === null ? null : rate * 60);
  const appended = meters.appended.take(of("appended"));
  tiles.live.show(alive(live), stateWords(live));
  tiles.live.showStates(live.states);
  tiles.events.show(total(appended));
  tiles.turns.show(perMinute(total(meters.attempts.take(of("attempts")))));
  tiles.failures.show(perMinute(total(meters.failed.take(of("failed")))));
  tiles.delivered.show(meters.delivered.take(node.delivered, now));
  tiles.readers.show(node.readers, `of ${count(node.feeds)} ${node.feeds === 1 ? "session" : "sessions"}`);
  tiles.redis.show(redis_ms);
  return appended;
}

/** Of the index some may have ended; where all of them were looked at, it is known which. */
function alive({ states, looked_at, total: all }) {
  return all > looked_at ? all : Object.values(states).reduce((sum, n) => sum + n, 0);
}

function stateWords({ states, looked_at, total: all }) {
  const words = Object.entries(states).filter(([, n]) => n).map(([name, n]) => `${n} ${name}`).join(", ");
  return all > looked_at ? `newest ${looked_at}: ${words}` : words || "none";
}

function sessionsNote({ sessions, next_cursor }, live) {
  if (!sessions.length) return state() ? `No session is ${state()}.` : "No session is live.";
  if (!next_cursor) return "";
  return limit < MOST ? `The newest ${sessions.length} of about ${count(live.total)}.` : `The newest ${sessions.length} of about ${count(live.total)}; the others: holdfast sessions`;
}

/** @returns {boolean} whether there is no use in asking again */
function refused(error) {
  if (error.status === 401 || error.status === 403) {
    door(key.get() ? (error.status === 403 ? "This key is not an admin's." : "This key is not known.") : "");
    return true;
  }
  const why = error.status ? error.message : "the node does not answer; trying again";
  status("away", heardAt ? `${why}; as of ${heardAt.toTimeString().slice(0, 8)}` : why);
  return false;
}

function door(note) {
  round++;
  clearTimeout(timer);
  key.forget();
  detail.open("");
  heardAt = null;
  byId("board").hidden = byId("leave").hidden = true;
  byId("door").hidden = false;
  byId("door-note").textContent = note;
  status("", "");
  byId("key").value = "";
  byId("key").focus();
}

function status(name, text) {
  byId("status").dataset.state = name;
  byId("status").textContent = text;
  byId("board").toggleAttribute("data-stale", name === "away");
  byId("nothing-yet").hidden = name !== "away" || !byId("board").hidden;
}

const state = () => document.querySelector("#filter input:checked").value;

/** The session that the URL names. */
function route() {
  if (!byId("door").hidden) return;
  detail.open(location.hash.slice(1));
  for (const row of byId("sessions-table").tBodies[0].rows) row.toggleAttribute("data-current", row.dataset.name === detail.id);
}

byId("door").addEventListener("submit", (submitted) => {
  submitted.preventDefault();
  const given = byId("key").value.trim();
  // What is no credential at all could not even be sent.
  if (!/^[\x21-\x7e]+$/.test(given)) return door("This is no key.");
  key.set(given);
  byId("door-note").textContent = "";
  refresh();
});
byId("leave").addEventListener("click", () => door(""));
byId("filter").addEventListener("change", () => {
  limit = PAGE;
  refresh();
});
byId("more").addEventListener("click", () => {
  limit = Math.min(MOST, limit + PAGE);
  refresh();
});
byId("sessions-table").tBodies[0].addEventListener("click", ({ target }) => {
  const row = target.closest("tr");
  if (row && !target.closest("a")) location.hash = row.dataset.name;
});
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible" && byId("door").hidden) refresh();
  else clearTimeout(timer);
});
addEventListener("hashchange", route);

// Whether a key is wanted is seen by one refusal, and not by three.
if (key.get()) refresh();
else client.overview().then(refresh, (error) => refused(error) || refresh());
