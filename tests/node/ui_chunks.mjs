// Chunks on stdin, a JSON list; on stdout for each version of the AI SDK the ones its own schema refuses.
import { text } from "node:stream/consumers";

const chunks = JSON.parse(await text(process.stdin));
const refused = {};
for (const [version, name] of Object.entries({ 5: "ai5", 6: "ai6", 7: "ai" })) {
  const { uiMessageChunkSchema } = await import(name);
  const schema = uiMessageChunkSchema();
  refused[version] = [];
  for (const chunk of chunks) {
    const { success } = await schema.validate(chunk);
    if (!success) refused[version].push(chunk.type);
  }
}
process.stdout.write(JSON.stringify(refused));
