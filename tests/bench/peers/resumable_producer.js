// Produces resumable streams, with REDIS_URL set. Commands and answers are those of producer.py.
"use strict";
const readline = require("node:readline");
const { createResumableStreamContext } = require("resumable-stream");

const context = createResumableStreamContext({ waitUntil: () => {} });
const TICK_S = 0.02;
const EPOCH = 1795337152950;
const sessions = new Map();

async function drain(stream) {
  for await (const _ of stream); // the response of the one who asked: read, or it would pile up
}

const commands = {
  async prepare({ sids }) {
    for (const sid of sids) {
      const session = { said: 0 };
      const stream = new ReadableStream({ start: (controller) => void (session.controller = controller) });
      drain(await context.createNewResumableStream(sid, () => stream));
      sessions.set(sid, session);
    }
    return {};
  },

  async say({ rate, seconds }) {
    const tick = Math.min(TICK_S, 1 / rate);
    const started = performance.now();
    const all = [...sessions.values()];
    const base = all.map((session) => session.said);
    let late = 0;
    for (let n = 1; n <= Math.round(seconds / tick); n++) {
      const pause = started + n * tick * 1000 - performance.now();
      if (pause > 0) await new Promise((resolve) => setTimeout(resolve, pause));
      else late = Math.max(late, -pause);
      if (pause <= 0) await new Promise((resolve) => setImmediate(resolve));
      const spoken = n * tick * rate;
      all.forEach((session, m) => {
        if (base[m] + Math.floor(spoken + m / all.length + 1e-6) > session.said) say(session, ++session.said);
      });
    }
    return { said: all.map((session) => session.said), late_ms: late };
  },
};

function say(session, number) {
  const now = Math.round((performance.timeOrigin + performance.now()) * 1000);
  const data = JSON.stringify({ text: `@${number}:${now} and so on` });
  session.controller.enqueue(`id: ${EPOCH}-${number}\nevent: text.delta\ndata: ${data}\n\n`);
}

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const { do: name, ...rest } = JSON.parse(line);
    process.stdout.write(JSON.stringify(await commands[name](rest)) + "\n");
  }
  process.exit(0);
}

main();
