/**
 * `transcript = fold(events)`: what a session's log says, as messages. Pure: no network, no DOM, no clock.
 * The same rule, and the same JSON, as the server's fold: its transcript in a `gap` can be gone on with.
 */

/** The event that ends a generation → the state it leaves. */
export const TERMINALS = {
  "generation.completed": "completed",
  "generation.failed": "failed",
  "generation.cancelled": "cancelled",
};

const COUNTS = ["input_tokens", "output_tokens", "reasoning_tokens", "cached_tokens"];

/** What an event does to the message it belongs to. Events name no generation: only one can run. */
const EDITS = {
  "text.delta": (m, { text }) => { m.content += text; },
  "reasoning.delta": (m, { text }) => { m.reasoning += text; },
  "status": (m, data) => step(m.status, data),
  "tool.call": (m, data) => m.tools.push(tool(data)),
  "tool.result": (m, data) => result(m.tools, data),
  "source": (m, { title = "", url = null }) => m.sources.push({ title, url }),
  "data": (m, { name, value = null }) => m.data.push({ name, value }),
  "question": (m, { id, text, choices = null, expires_at = null }) => { m.question = { id, text, choices, expires_at }; },
  "answer": (m, { id, text = null }) => {
    m.answers.push({ id, question: m.question?.text ?? "", text });
    m.question = null;
  },
  "usage": (m, data) => { m.usage = sum([m.usage, data]); },
};

export class Transcript {
  /** @type {object[]} see `message` below for their shape. Changed in place. */
  messages = [];

  /** Replay a whole log. @param {Iterable<{type: string, data: object}>} events */
  static of(events) {
    const transcript = new Transcript();
    for (const { type, data } of events) transcript.apply(type, data);
    return transcript;
  }

  /** Take the next event. Types it does not know change nothing, so a newer server does no harm. */
  apply(type, data) {
    if (Object.hasOwn(EDITS, type)) EDITS[type](this.#current(), data);
    else if (Object.hasOwn(TERMINALS, type)) this.#end(TERMINALS[type], data);
    else if (type === "message") this.messages.push(said(data));
    else if (type === "generation.started") this.#start(data);
    else if (type === "gap" || type === "snapshot") this.replace(data.transcript ?? data);
    return this;
  }

  /** Take a transcript the server folded instead of what is known here. */
  replace({ messages = [] }) {
    this.messages = messages;
  }

  /** The newest message, or undefined. */
  get last() {
    return this.messages.at(-1);
  }

  /** Whether an answer is being written, or is asked for and not begun yet. */
  get live() {
    return ["user", "tool"].includes(this.last?.role) || this.#running !== undefined;
  }

  /** Input of the newest turn. */
  get lastInput() {
    return this.messages.findLast(({ role }) => role === "user")?.content ?? "";
  }

  /** Tokens of all generations together. */
  get usage() {
    return sum(this.messages.map(({ usage }) => usage));
  }

  toJSON() {
    return { messages: this.messages };
  }

  get #running() {
    return this.last?.state === "running" ? this.last : undefined;
  }

  /** The assistant's message under way; made here where its start was trimmed away. */
  #current(generation = this.last?.generation ?? "") {
    if (!this.#running) this.messages.push(message("assistant", generation, { state: "running" }));
    return this.last;
  }

  /** What an earlier attempt said does not count: its worker was lost. In place, so that a view of it stays. */
  #start({ generation, attempt = 1 }) {
    const target = this.#current(generation);
    Object.assign(target, message("assistant", generation, { state: "running", attempt }));
  }

  /** A generation that was cancelled while it was queued has said nothing yet; its end is its message. */
  #end(state, { generation, code, message: text = "", retryable = false, finish_reason = null }) {
    const target = this.#current(generation);
    Object.assign(target, { generation, state, question: null, finish_reason });
    if (state === "failed") target.error = { code, message: text, retryable };
  }

}

/** A message of the client's. */
function said({ role, content, generation, tool_call_id = null, tool_calls }) {
  return message(role, generation, { content, tool_call_id, tools: (tool_calls ?? []).map(tool) });
}

/** `state` and everything after it is of the assistant's messages only. */
function message(role, generation, known) {
  return {
    role, content: "", generation, tool_call_id: null, state: null, attempt: null, reasoning: "", status: [], tools: [], sources: [],
    data: [], question: null, answers: [], error: null, finish_reason: null, usage: null, ...known,
  };
}

function tool({ id, name = "", arguments: args = null, output = null, error = null }) {
  return { id, name, arguments: args, output, error };
}

function result(tools, data) {
  const known = tools.find(({ id }) => id === data.id);
  if (known) Object.assign(known, { output: data.output ?? null, error: data.error ?? null });
  else tools.push(tool(data));
}

/** A step is named by `step`, or by its text where it has no name; telling it again replaces its line. */
function step(lines, { text, step: name = null, state = "running", progress = null }) {
  const found = lines.findIndex((line) => (line.step || line.text) === (name || text));
  lines.splice(found < 0 ? lines.length : found, 1, { text, step: name, state, progress });
}

function sum(usages) {
  const total = (name) => usages.reduce((all, usage) => all + (usage?.[name] ?? 0), 0);
  return Object.fromEntries(COUNTS.map((name) => [name, total(name)]));
}
