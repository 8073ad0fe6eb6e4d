// Serves streams that another process produces: node resumable_stream.js PORT, with REDIS_URL set.
"use strict";
const http = require("node:http");
const { createResumableStreamContext } = require("resumable-stream");

const context = createResumableStreamContext({ waitUntil: () => {} });
const HEAD = { "content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache" };

async function serve(request, response) {
  const stream = await context.resumeExistingStream(request.url.slice(1));
  if (!stream) {
    response.writeHead(404).end();
    return;
  }
  response.writeHead(200, HEAD).flushHeaders();
  const reader = stream.getReader();
  response.on("close", () => reader.cancel());
  for (let { value, done } = await reader.read(); !done; { value, done } = await reader.read()) {
    if (!response.write(value)) await new Promise((resolve) => response.once("drain", resolve));
  }
  response.end();
}

const server = http.createServer((request, response) => {
  serve(request, response).catch((error) => {
    console.error(error);
    response.destroy();
  });
});
server.listen({ host: "127.0.0.1", port: Number(process.argv[2]), backlog: 4096 });
