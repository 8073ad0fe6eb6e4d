/** Inline markup of model text: code, bold, italics, links. Tokens first, then as few changes to the DOM as possible. */

import { el } from "./dom.js";

/** Every repetition is bounded by what it may not contain: text made to be slow stays cheap. */
const MARKUP = new RegExp(
  [
    /(?<!`)(?<tick>`+)(?!`)(?<code>[^]{1,500}?)(?<!`)\k<tick>(?!`)/,
    /\*\*(?=\S)(?<strong>(?:[^*]|\*(?!\*)){1,2000}?)(?<=\S)\*\*/,
    /(?<![\w*])\*(?=[^\s*])(?<star>[^*\n]{1,500}?)(?<=\S)\*(?![\w*])/,
    /(?<![\w_])_(?=[^\s_])(?<line>[^_\n]{1,500}?)(?<=\S)_(?![\w_])/,
    /\[(?<label>[^[\]\n]{1,300})\]\((?<target>https?:\/\/[^\s()<>"]{1,2000})\)/,
    /(?<bare>https?:\/\/[^\s<>"'`)\]]{1,2000}[^\s<>"'`)\].,;:!?*_])/,
  ].map((part) => part.source).join("|"),
  "gu",
);

/** @returns {[kind: string, value: string | Array, href?: string][]} */
export function tokens(text) {
  const found = [];
  let at = 0;
  for (const match of text.matchAll(MARKUP)) {
    if (match.index > at) found.push(["text", text.slice(at, match.index)]);
    found.push(token(match.groups));
    at = match.index + match[0].length;
  }
  if (at < text.length) found.push(["text", text.slice(at)]);
  return found;
}

function token({ code, strong, star, line, label, target, bare }) {
  if (code !== undefined) return ["code", code];
  if (strong !== undefined) return ["strong", tokens(strong)];
  if (label !== undefined) return ["a", tokens(label), target];
  if (bare !== undefined) return ["a", [["text", bare]], bare];
  return ["em", tokens(star ?? line)];
}

function build([kind, value, href]) {
  if (kind === "text") return document.createTextNode(value);
  const children = typeof value === "string" ? [value] : value.map(build);
  const props = kind === "a" ? { href, target: "_blank", rel: "noopener noreferrer nofollow" } : {};
  return el(kind, props, ...children);
}

/** The inline content of one element. Text that only grew changes one text node. */
export class InlineView {
  #keys = [];

  constructor(element) {
    this.element = element;
  }

  show(text) {
    const next = tokens(text);
    const keys = next.map((one) => JSON.stringify(one));
    let same = 0;
    while (same < keys.length && keys[same] === this.#keys[same]) same++;
    const nodes = this.element.childNodes;
    if (next[same]?.[0] === "text" && nodes[same]?.nodeType === Node.TEXT_NODE) nodes[same++].data = next[same - 1][1];
    while (nodes.length > same) this.element.lastChild.remove();
    this.element.append(...next.slice(same).map(build));
    this.#keys = keys;
  }
}
