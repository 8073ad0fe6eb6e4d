/** One message of the transcript as an article. update() may be called every frame. */

import { el, icon, syncList } from "./dom.js";
import { MarkdownView } from "./markdown.js";

/**
 * @param {object} message      user or assistant, as in Transcript
 * @param {object} acts         what buttons do
 * @param {(question: object, text: string) => Promise<void>} acts.answer
 * @param {() => void} acts.retry
 * @returns {{element: HTMLElement, update: (newest: boolean) => void}}
 */
export function messageView(message, acts) {
  const element = el("article.message", {
    "data-role": message.role,
    "data-generation": message.generation ?? "",
    "aria-label": { user: "You said", tool: "Result of a tool" }[message.role] ?? "Answer",
  });
  // The exact text, also while rendering is paused because the page is in the background.
  Object.defineProperty(element, "rawText", { get: () => message.content });
  if (message.role !== "assistant") {
    element.append(el("div.bubble", { dir: "auto" }, message.content));
    return { element, update() {} };
  }
  return { element, update: assistant(element, message, acts) };
}

function assistant(element, message, acts) {
  const parts = [reasoning(), steps(), tools(), answered(), prose(), extras(), sources(), question(acts), ending(acts)];
  element.append(...parts.map((part) => part.element));
  return (newest) => {
    const live = message.state === "running";
    element.dataset.state = message.state;
    element.setAttribute("aria-busy", String(live));
    for (const part of parts) part.update(message, live, newest);
  };
}

function reasoning() {
  const label = el("span");
  const text = el("div.thoughts", { dir: "auto" });
  const element = el("details.fold.reasoning", { hidden: true }, el("summary", {}, icon("spark"), label), text);
  const node = text.appendChild(document.createTextNode(""));
  return {
    element,
    update(message, live) {
      element.hidden = !message.reasoning;
      label.textContent = live && !message.content ? "Thinking…" : "Thoughts";
      element.classList.toggle("busy", live && !message.content);
      const grown = message.reasoning.startsWith(node.data);
      if (grown) node.appendData(message.reasoning.slice(node.length));
      else node.data = message.reasoning;
    },
  };
}

/** A step that runs while nothing runs any more was cut short with its generation. */
function steps() {
  const element = el("ul.steps", { hidden: true, "aria-label": "Progress" });
  const update = (message, live) => {
    const lines = message.status.map((line) => ({ ...line, state: line.state === "done" || live ? line.state : "stopped" }));
    syncList(element, lines, step);
  };
  return { element, update };
}

function step({ text, state, progress }) {
  const measured = state === "running" && progress !== null;
  const percent = `${Math.round((progress ?? 0) * 100)} %`;
  const mark = el(`span.mark.${measured ? "ring" : state}`, { role: "img", "aria-label": measured ? percent : state },
    state === "done" && icon("tick"));
  mark.style.setProperty("--part", percent.replace(" ", ""));
  return el("li", { "data-state": state }, mark, el("span", {}, text), measured && el("span.note", {}, percent));
}

function tools() {
  const element = el("div.folds", { hidden: true });
  return { element, update: (message) => syncList(element, message.tools, tool) };
}

function tool({ name, arguments: args, output, error }) {
  const waiting = output === null && error === null;
  const note = error !== null ? "failed" : waiting ? "…" : "";
  return el("details.fold.tool", { "data-tool": name },
    el("summary", {}, icon("tool"), el("span", {}, name), el(`span.note${error !== null ? ".bad" : ""}`, {}, note)),
    args !== null && labelled("Input", args),
    output !== null && labelled("Output", output),
    error !== null && labelled("Error", error));
}

const labelled = (label, value) => el("div.payload", {}, el("h4", {}, label), el("pre", { tabIndex: 0 }, el("code", {}, pretty(value))));

/** JSON for reading. Some providers' arguments come as a string of JSON. */
function pretty(value) {
  if (typeof value !== "string") return JSON.stringify(value, null, 2);
  try {
    return JSON.stringify(JSON.parse(value), null, 2);
  } catch {
    return value;
  }
}

function prose() {
  const element = el("div.prose", { dir: "auto" });
  const markdown = new MarkdownView(element);
  return { element, update: (message, live) => markdown.update(message.content, live) };
}

function extras() {
  const element = el("div.folds", { hidden: true });
  const one = ({ name, value }) =>
    el("details.fold.data", { "data-name": name }, el("summary", {}, icon("data"), el("span", {}, name)), labelled("Value", value));
  return { element, update: (message) => syncList(element, message.data, one) };
}

function sources() {
  const element = el("ul.sources", { hidden: true, "aria-label": "Sources" });
  return { element, update: (message) => syncList(element, message.sources, source) };
}

function source({ title, url }) {
  const safe = /^https?:\/\//i.test(url ?? "") && URL.canParse(url) ? new URL(url) : null;
  const lines = [el("strong", {}, title || safe?.host || url || "Source"), safe && el("span", {}, safe.host.replace(/^www\./, ""))];
  if (!safe) return el("li", {}, el("span.source", {}, ...lines));
  return el("li", {}, el("a.source", { href: safe.href, target: "_blank", rel: "noopener noreferrer nofollow" }, ...lines));
}

function answered() {
  const element = el("ul.answered", { hidden: true, "aria-label": "Answered questions" });
  const one = ({ question, text }) => el("li", {}, el("span", {}, question), el("strong", {}, text ?? "no answer in time"));
  return { element, update: (message) => syncList(element, message.answers, one) };
}

function question({ answer }) {
  const element = el("div.open", { hidden: true });
  const card = (one) => questionCard(one, answer);
  return { element, update: (message) => syncList(element, message.question ? [message.question] : [], card) };
}

function questionCard(question, answer) {
  const card = el("form.question", { "data-question": question.id });
  const say = async (text) => {
    if (!text.trim()) return;
    card.inert = true;
    // Stays inert when all went well: the answer comes back as an event and takes the card away.
    await answer(question, text).catch(() => { card.inert = false; });
  };
  card.append(el("p", {}, question.text), ...(question.choices?.length ? choices(question, say) : blank(question, card, say)));
  if (question.expires_at) card.append(el("small", {}, `Open until ${clock(question.expires_at)}`));
  return card;
}

function choices(question, say) {
  return [el("div.choices", {}, ...question.choices.map((choice) =>
    el("button", { type: "button", onclick: () => say(String(choice)) }, String(choice))))];
}

function blank(question, card, say) {
  const input = el("input", { type: "text", "aria-label": question.text, placeholder: "Your answer", autocomplete: "off" });
  card.addEventListener("submit", (event) => {
    event.preventDefault();
    say(input.value);
  });
  return [el("div.blank", {}, input, el("button", { type: "submit" }, "Answer"))];
}

/** ms since 1970, s since 1970 or an ISO string, as a time of day. */
function clock(value) {
  const at = new Date(typeof value === "number" && value < 1e11 ? value * 1000 : value);
  return at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
}

/** How it ended: nothing to say about a whole answer, except that it can be copied. */
function ending({ retry }) {
  const element = el("div.ending", { hidden: true });
  const update = (message, live, newest) => {
    const end = live ? [] : [{ state: message.state, error: message.error, newest, copy: Boolean(message.content) }];
    syncList(element, end, (one) => endNote(one, message, retry));
  };
  return { element, update };
}

function endNote({ state, error, newest, copy }, message, retry) {
  if (state === "failed") {
    const again = newest && error?.retryable && el("button.retry", { type: "button", onclick: retry }, icon("again"), "Try again");
    return el("div.failure", { role: "group", "aria-label": "Error" },
      icon("alert"), el("div", {}, el("p", {}, error?.message || "The answer failed."), el("code", {}, error?.code ?? "")), again);
  }
  const copied = copy && navigator.clipboard && copyButton(message);
  return el("div.foot", {}, state === "cancelled" && el("span.stopped", {}, icon("stop"), "Interrupted"), copied);
}

function copyButton(message) {
  const button = el("button.quiet.copy", { type: "button", "aria-label": "Copy answer", title: "Copy" }, icon("copy"));
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(message.content);
    button.replaceChildren(icon("tick"));
    setTimeout(() => button.replaceChildren(icon("copy")), 1500);
  });
  return button;
}
