/** The row of numbers, each with what it was in the last minutes. */

import { count } from "./admin-words.js";
import { el } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";
/** Samples of a line: at one in 2 s, five minutes. */
const SAMPLES = 150;
const WIDTH = 150;
const HEIGHT = 36;

function svg(tag, attributes, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** A line that grows to the right. Where nothing is known it has a gap. */
class Sparkline {
  #values = [];
  #line = svg("path", { class: "line" });
  #area = svg("path", { class: "area" });

  constructor() {
    const box = { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", class: "spark", "aria-hidden": "true" };
    this.node = svg("svg", box, this.#area, this.#line);
  }

  push(value) {
    this.#values = [...this.#values, value].slice(-SAMPLES);
    const pieces = this.#pieces();
    this.#line.setAttribute("d", pieces.map((piece) => `M${piece.map((point) => point.join(" ")).join("L")}`).join(""));
    this.#area.setAttribute("d", pieces.map((piece) => {
      const shape = piece.map((point) => point.join(" ")).join("L");
      return `M${piece[0][0]} ${HEIGHT}L${shape}L${piece.at(-1)[0]} ${HEIGHT}Z`;
    }).join(""));
  }

  /** The highest of what is shown. */
  get top() {
    return Math.max(...this.#values.map((value) => value ?? 0), 0);
  }

  #pieces() {
    const top = this.top || 1;
    const pieces = [[]];
    this.#values.forEach((value, n) => {
      if (value === null) return pieces.push([]);
      const x = WIDTH - (this.#values.length - 1 - n) * (WIDTH / (SAMPLES - 1));
      pieces.at(-1).push([x.toFixed(1), (HEIGHT - 1.5 - (value / top) * (HEIGHT - 3)).toFixed(1)]);
    });
    return pieces.filter((piece) => piece.length > 1);
  }
}

export class Tile {
  #value = el("strong");
  #about = el("small");
  #spark = new Sparkline();

  /** @param {{id: string, label: string, title: string, alarming?: boolean}} what */
  constructor({ id, label, title, alarming = false }) {
    this.alarming = alarming;
    this.node = el("div.tile", { id: `tile-${id}`, title }, el("span.label", {}, label), this.#value, this.#about, this.#spark.node);
  }

  /** @param {number | null} value  @param {string} [about] replaces the words on the highest of the last minutes */
  show(value, about) {
    this.#spark.push(value);
    this.#value.textContent = count(value);
    this.#about.textContent = about ?? (this.#spark.top > 0 ? `top ${count(this.#spark.top)}` : "none lately");
    if (this.alarming) this.node.classList.toggle("alarm", value > 0);
  }
}

/** Live sessions by state, as parts of one bar. */
export class StateTile extends Tile {
  #bar = svg("svg", { viewBox: "0 0 100 6", preserveAspectRatio: "none", class: "states", "aria-hidden": "true" });

  constructor(what) {
    super(what);
    this.node.append(this.#bar);
  }

  showStates(states) {
    const sum = Object.values(states).reduce((total, n) => total + n, 0) || 1;
    let x = 0;
    this.#bar.replaceChildren(...Object.entries(states).filter(([, n]) => n).map(([state, n]) => {
      const width = (100 * n) / sum;
      const part = svg("rect", { x, y: 0, width, height: 6, class: state });
      x += width;
      return part;
    }));
  }
}
