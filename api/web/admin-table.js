/** Rows that stay the same elements as long as they stand for the same thing: focus and selection are kept. */

import { count, span } from "./admin-words.js";
import { el } from "./dom.js";

/**
 * @param {HTMLTableSectionElement} body
 * @param {object[]} items
 * @param {(item: object) => string} nameOf
 * @param {(item: object) => (string | Node | {text: string, className?: string, title?: string})[]} cellsOf one for each column
 * @param {string[]} labels of the columns
 */
function sync(body, items, nameOf, cellsOf, labels) {
  const rows = new Map([...body.rows].map((row) => [row.dataset.name, row]));
  items.forEach((item, n) => {
    const name = nameOf(item);
    const row = rows.get(name) ?? el("tr", { "data-name": name }, ...labels.map((label) => el("td", { "data-label": label })));
    rows.delete(name);
    cellsOf(item).forEach((cell, column) => fill(row.cells[column], cell));
    if (body.rows[n] !== row) body.insertBefore(row, body.rows[n] ?? null);
  });
  for (const row of rows.values()) row.remove();
}

function fill(td, cell) {
  const { text, className = "", title = "", make } = typeof cell === "object" ? cell : { text: cell };
  const said = `${text}|${className}`;
  if (td.said === said) return;
  td.said = said;
  td.className = className;
  td.title = title;
  if (make) td.replaceChildren(make());
  else td.textContent = text;
}

/** A session that said nothing for so long is perhaps stuck. */
const QUIET_MS = 30_000;
const SESSION = ["State", "Session", "Owner", "Model", "Turn", "Age", "Quiet", "Readers"];

export function showSessions(body, sessions, current) {
  sync(body, sessions, (each) => each.id, (each) => [
    { text: each.state, className: "state", make: () => el("span.pill", { "data-state": each.state }, each.state) },
    { text: each.id, className: "id", title: each.id, make: () => el("a", { href: `#${each.id}` }, each.id) },
    { text: each.owner, className: "owner", title: each.owner },
    { text: each.model, className: "model", title: each.model },
    each.attempt > 1
      ? { text: `${each.generation} try ${each.attempt}`, className: "n turn warn", title: "Its worker was lost, or left" }
      : { text: each.generation, className: "n turn" },
    { text: span(each.age_ms), className: "n age" },
    { text: span(each.quiet_ms), className: each.state === "running" && each.quiet_ms > QUIET_MS ? "n quiet-for warn" : "n quiet-for" },
    { text: count(each.readers), className: "n readers" },
  ], SESSION);
  for (const row of body.rows) row.toggleAttribute("data-current", row.dataset.name === current);
}

const WORKER = ["Worker", "Holds", "Lease left", "Events/s", "Heard"];

/** @param {Map<string, number | null>} rates events per second by name */
export function showWorkers(body, workers, rates, now) {
  sync(body, workers, (each) => each.name, (each) => {
    const { host, pid, generations = 0, room = 0, at } = each.about;
    return [
      { text: each.name, className: "id", title: `${each.name} (${host ?? "?"}, process ${pid ?? "?"})` },
      { text: `${generations}/${room}`, className: "gauge", make: () => gauge(generations, room, `${count(generations)}${room ? ` of ${count(room)}` : ""}`, room > 0 && generations >= room * 0.9) },
      { text: span(each.lease_ms), className: "gauge", make: () => gauge(each.lease_ms, each.lease_s * 1000, span(each.lease_ms), each.lease_ms < each.lease_s * 400) },
      { text: count(rates.get(each.name) ?? null), className: "n" },
      { text: at ? `${span(Math.max(0, now - at))} ago` : "–", className: "n" },
    ];
  }, WORKER);
}

function gauge(value, most, text, alarming) {
  const meter = el(alarming ? "progress.alarm" : "progress", { max: most || 1, value: Math.min(value, most || 1), "aria-label": text });
  return el("span.gauge-of", {}, meter, el("span", {}, text));
}
