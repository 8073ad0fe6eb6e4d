// A Chat of the AI SDK without a page: `version transport base chat`, then lines of `[call number, method, ...arguments]`
// in and `{reply, status, error, messages, value?}` out, each when what was called is over. `said(n)` waits until the last
// message has n characters.
import { createInterface } from "node:readline";

const [version, kind, base, id] = process.argv.slice(2);
const suffix = version === "7" ? "" : version;
const { Chat } = await import(suffix ? `ai-sdk-react${suffix}` : "@ai-sdk/react");
const { DefaultChatTransport, WebSocketChatTransport } = await import(`ai${suffix}`);

const query = process.env.UI_CHAT_QUERY ?? "";
const transport =
  kind === "ws"
    ? new WebSocketChatTransport({ url: `${base}/api/chat/ws` })
    : new DefaultChatTransport({
        api: `${base}/api/chat`,
        prepareReconnectToStreamRequest: ({ id, api }) => ({ api: `${api}/${encodeURIComponent(id)}/stream${query}` }),
      });
let disconnected = false;
const chat = new Chat({ id, transport, onFinish: ({ isDisconnect }) => (disconnected = isDisconnect) });
const textOf = (message) => (message?.parts ?? []).map((part) => (part.type === "text" ? part.text : "")).join("");
const methods = {
  send: (text, body, messageId) => chat.sendMessage(messageId ? { id: messageId, parts: [{ type: "text", text }], role: "user" } : { text }, { body }),
  regenerate: (body) => chat.regenerate({ body }),
  resume: () => chat.resumeStream(),
  stop: () => chat.stop(),
  said: (chars) =>
    new Promise((resolve) => {
      const look = () => textOf(chat.lastMessage).length >= chars && (clearInterval(timer), resolve());
      const timer = setInterval(look, 5);
    }),
};

for await (const line of createInterface({ input: process.stdin })) {
  const [reply, method, ...given] = JSON.parse(line);
  methods[method](...given)
    .catch((error) => error.message)
    .then(() => {
      const { status, messages } = chat;
      const error = chat.error?.message ?? null;
      process.stdout.write(`${JSON.stringify({ reply, status, error, disconnected, messages })}\n`);
    });
}
process.exit(0);
