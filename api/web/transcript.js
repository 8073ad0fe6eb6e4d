/**
 * `transcript = fold(events)`: what a session's log says, as messages. Pure: no network, no DOM, no clock.
 * The same rule, with the same JSON, as `GET /v1/sessions/{id}` of the server.
 */

/** The event that ends a generation → the state it leaves. */
export const TERMINALS = {
  "generation.completed": "completed",
  "generation.failed": "failed",
  "generation.cancelled": "cancelled",
};

const RULES = {
  "message": (t, data) => t.messages.push(said(data)),
  "generation.started": (t, data) => t.begin(data),
  "text.delta": (t, { text }) => t.edit((m) => { m.content += text; }),
  "reasoning.delta": (t, { text }) => t.edit((m) => { m.reasoning += text; }),
  "status": (t, data) => t.edit((m) => step(m.status, data)),
  "tool.call": (t, { id, name, arguments: args = null }) =>
    t.edit((m) => { m.tools.push({ id, name, arguments: args, output: null, error: null }); }),
  "tool.result": (t, { id, output = null, error = null }) =>
    t.edit((m) => { Object.assign(m.tools.findLast((tool) => tool.id === id) ?? {}, { output, error }); }),
  "source": (t, { title = null, url = null }) => t.edit((m) => { m.sources.push({ title, url }); }),
  "data": (t, { name, value = null }) => t.edit((m) => { m.data.push({ name, value }); }),
  "question": (t, { id, text, choices = null, expires_at = null }) =>
    t.edit((m) => { m.question = { id, text, choices, expires_at }; }),
  "answer": (t, data) => t.edit((m) => t.answered(m, data)),
  "usage": (t, data) => t.spend(data),
  "gap": (t, { transcript }) => transcript && t.replace(transcript),
  "snapshot": (t, data) => t.replace(data.transcript ?? data),
};

export class Transcript {
  /** @type {object[]} user: `{role, content, generation}`; assistant: see `reply` below. Changed in place. */
  messages = [];
  /** Sums over all generations. */
  usage = {};
  /** Message → `[{question, text}]`: answers seen go by, for display. Not part of the transcript's JSON. */
  answers = new WeakMap();

  /** Replay a whole log. @param {Iterable<{type: string, data: object}>} events */
  static of(events) {
    const transcript = new Transcript();
    for (const { type, data } of events) transcript.apply(type, data);
    return transcript;
  }

  /** Take the next event. Types it does not know change nothing, so a newer server does no harm. */
  apply(type, data) {
    if (Object.hasOwn(TERMINALS, type)) this.end(TERMINALS[type], data);
    else if (Object.hasOwn(RULES, type)) RULES[type](this, data);
    return this;
  }

  /** The newest message, or undefined. */
  get last() {
    return this.messages.at(-1);
  }

  /** Whether an answer is being written, or is asked for and not begun yet. */
  get live() {
    return this.last !== undefined && (this.last.role === "user" || this.last.state === "running");
  }

  /** Input of the newest turn. */
  get lastInput() {
    return this.messages.findLast((message) => message.role === "user")?.content ?? "";
  }

  toJSON() {
    return { messages: this.messages, usage: this.usage };
  }

  /** A further attempt says everything again: what the earlier one said is discarded. */
  begin({ generation, attempt = 1 }) {
    const target = Object.assign(this.#replyOf(generation), reply(generation, attempt));
    this.answers.delete(target);
  }

  /** Events name no generation: they belong to the one that runs, and only one can. */
  edit(change) {
    if (this.last?.role === "assistant") change(this.last);
  }

  /** A generation that was cancelled while queued has no reply yet; its end is one. */
  end(state, { generation, code, message, retryable = false }) {
    const target = this.#replyOf(generation);
    target.state = state;
    target.question = null;
    if (state === "failed") target.error = { code, message, retryable };
  }

  answered(message, { id, text }) {
    const question = message.question?.text ?? "";
    this.answers.set(message, [...(this.answers.get(message) ?? []), { question, text }]);
    if (message.question?.id === id) message.question = null;
  }

  spend(data) {
    for (const [name, count] of Object.entries(data)) {
      if (typeof count === "number") this.usage[name] = (this.usage[name] ?? 0) + count;
    }
  }

  replace({ messages = [], usage = {} }) {
    this.messages = messages;
    this.usage = usage;
  }

  #replyOf(generation) {
    const found = this.messages.findLast((m) => m.role === "assistant" && m.generation === generation);
    if (found) return found;
    this.messages.push(reply(generation, 0));
    return this.last;
  }
}

function reply(generation, attempt) {
  return {
    role: "assistant", content: "", generation, state: "running", attempt, reasoning: "",
    status: [], tools: [], sources: [], data: [], question: null, error: null,
  };
}

/** A history given with the session may hold earlier assistant messages; they are whole. */
function said({ role, content, generation }) {
  if (role !== "assistant") return { role, content, generation };
  return { ...reply(generation, 0), content, state: "completed" };
}

/** A step is named by `step`, or by its text where it has no name; telling it again updates its line. */
function step(list, { text, step: name = null, state = "running", progress = null }) {
  const key = name ?? text;
  const line = list.find((known) => (known.step ?? known.text) === key);
  if (line) Object.assign(line, { text, state, progress });
  else list.push({ text, step: name, state, progress });
}
