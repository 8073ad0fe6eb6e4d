/**
 * The Anthropic SDK as its users call it. Arguments: base URL, how (`create`, `events`, `stream`), body as JSON.
 * A line of JSON for each event of a stream as it comes, then one with `done` or `error`.
 */

import Anthropic from "@anthropic-ai/sdk";

const [baseURL, how, body] = process.argv.slice(2);
const client = new Anthropic({ baseURL, apiKey: "none" });
const say = (line) => console.log(JSON.stringify(line));

async function ask(request) {
  if (how === "create") return client.messages.create(request);
  if (how === "stream") {
    const stream = client.messages.stream(request);
    stream.on("streamEvent", (event) => say({ event }));
    return stream.finalMessage();
  }
  for await (const event of await client.messages.create({ ...request, stream: true })) say({ event });
  return null;
}

try {
  say({ done: await ask(JSON.parse(body)) });
} catch (error) {
  const { constructor, status = null, message, error: told = null } = error;
  say({ error: { name: constructor.name, status, message, told } });
}
