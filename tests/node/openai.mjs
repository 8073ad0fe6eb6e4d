/**
 * The OpenAI SDK as its users call it. Arguments: base URL, what to do (one of `calls`), its parameters as JSON.
 * A line of JSON for each event of a stream as it comes, then one with `done` or `error`.
 */

import OpenAI from "openai";

const [baseURL, how, parameters] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
const say = (line) => console.log(JSON.stringify(line));
const over = (event) => ["response.completed", "response.failed", "response.incomplete"].includes(event.type);

async function told(stream) {
  for await (const event of await stream) say({ event });
  return null;
}

/** Whatever breaks: ask again for what follows the last event. */
async function follow(id) {
  let last = null;
  let cuts = 0;
  while (last === null || !over(last)) {
    const after = last === null ? {} : { starting_after: last.sequence_number };
    try {
      for await (const event of await client.responses.retrieve(id, { stream: true, ...after })) {
        last = event;
        say({ event });
      }
    } catch {
      cuts += 1;
    }
  }
  return { cuts };
}

/** Cancel as soon as there is a word. */
async function cancelled(body) {
  let answer = null;
  for await (const event of await client.responses.create({ ...body, stream: true })) {
    say({ event });
    if (event.type === "response.created") answer = { id: event.response.id };
    if (event.type === "response.output_text.delta" && answer.status === undefined) {
      answer = await client.responses.cancel(answer.id);
    }
  }
  return answer;
}

const calls = {
  "chat": (body) => client.chat.completions.create(body),
  "chat events": (body) => told(client.chat.completions.create({ ...body, stream: true })),
  "chat stream": (body) => client.chat.completions.stream(body).finalChatCompletion(),
  "response": (body) => client.responses.create(body),
  "response events": (body) => told(client.responses.create({ ...body, stream: true })),
  "response stream": (body) => client.responses.stream(body).finalResponse(),
  "retrieve": ({ id }) => client.responses.retrieve(id),
  "follow": ({ id }) => follow(id),
  "cancelled": cancelled,
  "models": async () => (await client.models.list()).data.map(({ id }) => id),
};

try {
  say({ done: await calls[how](JSON.parse(parameters)) });
} catch (error) {
  const { constructor, status = null, code = null, message } = error;
  say({ error: { name: constructor.name, status, code, message } });
}
