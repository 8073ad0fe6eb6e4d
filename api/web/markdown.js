/**
 * Model text as it grows. Lines that are complete are read once and never again, so the work of a frame depends on
 * what is new, not on how much was said. The last, unfinished line is shown as what it looks like so far and taken back
 * if it turns out to be something else.
 */

import { el } from "./dom.js";
import { InlineView } from "./inline.js";

const FENCE = /^(\s*)(`{3,}|~{3,})\s*([\w+#.-]{0,30})[^`]*$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const HEADING = /^(#{1,6})\s+(.*?)\s*#*$/;
const RULE = /^ {0,3}([-*_])( *\1){2,} *$/;
const QUOTE = /^ {0,3}> ?(.*)$/;
/** The first characters of something that is not a paragraph: shown only when it is clear what it is. */
const UNDECIDED = /^\s*([-*+_]{1,3}|\d{1,3}[.)]|#{1,6}|`{1,3}|~{1,3}|\*\*)$/;

/** What a line is, given the block it may continue. */
function classify(line, block) {
  if (block?.kind === "code" && !block.closed) {
    const ends = line.trim().startsWith(block.fence) && !line.trim().slice(block.fence.length).replaceAll(block.fence[0], "");
    return ends ? { kind: "fence end" } : { kind: "code", text: unindent(line, block.indent), continues: true };
  }
  if (!line.trim()) return { kind: "blank" };
  let match;
  if ((match = FENCE.exec(line))) return { kind: "code", indent: match[1].length, fence: match[2], lang: match[3], text: null };
  if (RULE.test(line)) return { kind: "rule", text: "" };
  if ((match = HEADING.exec(line))) return { kind: "heading", level: match[1].length, text: match[2] };
  if ((match = ITEM.exec(line))) return { kind: "item", indent: match[1].length, mark: match[2], text: match[3] };
  if ((match = QUOTE.exec(line))) return { kind: "quote", text: match[1], continues: block?.kind === "quote" };
  const continues = ["paragraph", "item", "quote"].includes(block?.kind);
  return { kind: continues ? block.kind : "paragraph", text: line.trim(), continues };
}

const unindent = (line, indent) => line.replace(new RegExp(`^ {0,${indent}}`), "");

export class MarkdownView {
  #root;
  #text = "";
  /** Everything before this was read for good. */
  #at = 0;
  /** The block the next line may continue. */
  #block = null;
  /** A block made for the unfinished line; it stays only if the line stays what it is. */
  #ghost = null;
  /** The lists an item could go into, outermost first: `{indent, ordered, list, item}`. */
  #lists = [];
  /** Blocks whose text changed in this update. Drawn once at its end, however many lines came. */
  #changed = new Set();

  /** @param {Element} root holds nothing else */
  constructor(root) {
    this.#root = root;
  }

  /** Show `text`. `live`: more may come, so what is not yet clear is held back for a moment. */
  update(text, live) {
    if (!text.startsWith(this.#text)) this.#clear();
    this.#text = text;
    for (let end; (end = text.indexOf("\n", this.#at)) >= 0; this.#at = end + 1) this.#line(text.slice(this.#at, end));
    const rest = text.slice(this.#at);
    this.#unfinished(live && UNDECIDED.test(rest) ? "" : rest);
    for (const block of this.#changed) draw(block);
    this.#changed.clear();
    this.#markTail(live);
  }

  #clear() {
    this.#root.replaceChildren();
    this.#at = 0;
    this.#block = this.#ghost = null;
    this.#lists = [];
  }

  #line(line) {
    const info = classify(line.replace(/\r$/, ""), this.#block);
    const target = this.#place(info);
    if (info.kind === "fence end") this.#block.closed = true;
    if (target) target.text = target.shown;
    this.#block = info.kind === "blank" ? null : (target ?? this.#block);
    this.#ghost = null;
  }

  #unfinished(line) {
    const target = this.#place(line ? classify(line, this.#block) : { kind: "blank" });
    this.#ghost = target === this.#block ? null : target;
  }

  /** Show a line where it belongs. Returns its block; null for a line that has none. */
  #place(info) {
    if (info.continues) {
      this.#dropGhost();
      this.#show(this.#block, this.#block.text === null ? info.text : `${this.#block.text}\n${info.text}`);
      return this.#block;
    }
    if (this.#block) this.#show(this.#block, this.#block.text);
    const ghost = this.#ghost;
    if (ghost && alike(ghost, info)) return this.#show(ghost, info.text);
    this.#dropGhost();
    return info.text === undefined ? null : this.#show(this.#open(info), info.text);
  }

  #show(block, text) {
    if (block.shown !== text) this.#changed.add(block);
    block.shown = text;
    return block;
  }

  #dropGhost() {
    if (!this.#ghost) return;
    this.#ghost.outer.remove();
    this.#lists = this.#ghost.listsBefore;
    this.#ghost = null;
  }

  #open(info) {
    const listsBefore = [...this.#lists];
    const block = info.kind === "item" ? this.#openItem(info) : this.#openPlain(info);
    return { ...info, ...block, text: null, shown: null, listsBefore };
  }

  #openPlain(info) {
    const item = info.indent >= 2 ? this.#lists.at(-1)?.item : null;
    if (!item) this.#lists = [];
    const made = makers[info.kind](info);
    (item ?? this.#root).append(made.outer);
    return made;
  }

  /** `outer` is what has to go if the item is taken back: the list too where it was made for it. */
  #openItem({ indent, mark }) {
    const ordered = mark.length > 1;
    while (this.#lists.length && this.#lists.at(-1).indent > indent) this.#lists.pop();
    let top = this.#lists.at(-1);
    const deeper = top && indent > top.indent + 1;
    const inner = el("span");
    const item = el("li", {}, inner);
    if (top && !deeper && top.ordered === ordered) {
      top.list.append(item);
      // A copy: the entry from before must survive in `listsBefore`.
      this.#lists[this.#lists.length - 1] = { ...top, item };
      return { outer: item, inline: new InlineView(inner), tail: inner };
    }
    if (top && !deeper) this.#lists.pop();
    const parent = this.#lists.at(-1)?.item ?? this.#root;
    const list = el(ordered ? "ol" : "ul", ordered ? { start: parseInt(mark, 10) } : {}, item);
    parent.append(list);
    this.#lists.push({ indent, ordered, list, item });
    return { outer: list, inline: new InlineView(inner), tail: inner };
  }

  /** Where the cursor blinks. */
  #markTail(live) {
    const tail = live ? ((this.#ghost ?? this.#block)?.tail ?? this.#root.lastElementChild) : null;
    if (tail === this.tail) return;
    this.tail?.classList.remove("tail");
    tail?.classList.add("tail");
    this.tail = tail;
  }
}

/** Whether the unfinished line is still the same kind of block as it was a moment ago. */
function alike(ghost, { kind, level, mark, indent, lang, fence }) {
  return ghost.kind === kind && ghost.level === level && ghost.mark === mark && ghost.indent === indent
    && ghost.lang === lang && ghost.fence === fence;
}

function draw({ inline, node, shown }) {
  if (inline) inline.show(shown ?? "");
  else if (node) grow(node, shown ?? "");
}

/** Code is one text node; appending keeps the reader's selection. */
function grow(node, text) {
  if (text.startsWith(node.data)) node.appendData(text.slice(node.data.length));
  else node.data = text;
}

function textual(tag) {
  const outer = el(tag);
  return { outer, inline: new InlineView(outer), tail: outer };
}

const makers = {
  paragraph: () => textual("p"),
  quote: () => textual("blockquote"),
  heading: ({ level }) => textual(`h${Math.min(6, level + 2)}`),
  rule: () => ({ outer: el("hr") }),
  code: ({ lang }) => {
    const node = document.createTextNode("");
    const tail = el("code", {}, node);
    return { outer: el("pre", { "data-lang": lang, tabIndex: 0 }, tail), node, tail };
  },
};
