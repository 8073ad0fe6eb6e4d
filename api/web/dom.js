/** Building DOM without markup strings: whatever a model says can only ever become text. */

/**
 * @param {string} tag            `div`, or with classes `div.card.small`
 * @param {object} [props]        properties; `data-*`, `aria-*`, `role` and `for` are set as attributes, `on*` listen
 * @param {...(Node | string | null | false | undefined)} children  nothing is added for the empty ones
 */
export function el(tag, props = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const node = document.createElement(name);
  if (classes.length) node.className = classes.join(" ");
  for (const [key, value] of Object.entries(props)) set(node, key, value);
  node.append(...children.filter((child) => child || child === ""));
  return node;
}

function set(node, key, value) {
  if (value === undefined) return;
  if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
  else if (/^(data-|aria-|role$|for$)/.test(key)) node.setAttribute(key, value);
  else node[key] = value;
}

/** One of the symbols in index.html. Decoration: whatever bears it says in words what it does. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${name}`);
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

/**
 * Show `items` as children of `parent`, touching only what changed.
 * @param {Element} parent  holds nothing but these children; hidden while there are none
 * @param {object[]} items
 * @param {(item: object) => Element} make
 */
export function syncList(parent, items, make) {
  parent.hidden = items.length === 0;
  items.forEach((item, n) => {
    const key = JSON.stringify(item);
    const shown = parent.children[n];
    if (shown?.syncKey === key) return;
    const made = make(item);
    made.syncKey = key;
    if (shown instanceof HTMLDetailsElement) made.open = shown.open;
    if (shown) shown.replaceWith(made);
    else parent.append(made);
  });
  while (parent.children.length > items.length) parent.lastElementChild.remove();
}

/** The one element with this id; a missing one is a mistake in index.html and is said at once. */
export function byId(id) {
  return document.getElementById(id) ?? fail(`no element #${id}`);
}

function fail(message) {
  throw new Error(message);
}
