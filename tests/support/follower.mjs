// A Follower in Node, driven by lines of JSON: `[call number, method, ...arguments]` in; out come
// `{event}`, `{state}`, `{reply, value | error}` and, when the following is over, `{over, error}`. With `clock`, time
// stands still but for `tick(ms)`. `{signal: name}` in arguments is a signal that `abort(name)` aborts. With `closed`
// it is closed in the tick it began in; with `tokens` its client's headers are known `later` or `never`; with `spoil`
// its consumer closes it at the first event and throws. What it asks the network for is told as `{asked}`.
import { mock } from "node:test";
import { createInterface } from "node:readline";

const [module, base, session, options] = process.argv.slice(2);
const { Holdfast } = await import(module);
const { eager, clock, closed, tokens, spoil, headers, ...following } = JSON.parse(options);
if (clock) mock.timers.enable({ apis: ["setTimeout"] });
const say = (what) => process.stdout.write(`${JSON.stringify(what)}\n`);
const told = ({ code, name, message }) => ({ code: typeof code === "string" ? code : name, message });

class Socket extends WebSocket {
  constructor(url) {
    say({ asked: url });
    super(url);
  }
}
const asking = (url, init) => {
  say({ asked: url });
  return fetch(url, init);
};
const renewing = { later: async () => ({}), never: () => new Promise(() => {}) };

const stops = {};
const stopOf = (name) => (stops[name] ??= new AbortController());
const meant = (given) => (given?.signal ? { ...given, signal: stopOf(given.signal).signal } : given);
const own = { tick: (ms) => mock.timers.tick(ms), abort: (name) => stopOf(name).abort() };

const stream = new Holdfast({ base, headers: renewing[tokens] ?? headers, fetch: asking, WebSocket: Socket }).follow(session, {
  ...following,
  onEvent(event) {
    say({ event });
    if (!spoil) return;
    stream.close();
    throw new Error("spoilt");
  },
  onState: (state) => say({ state }),
});
if (closed) stream.close();
if (eager) setInterval(() => stream.state === "reconnecting" && stream.wake(), 10).unref();
stream.done.then(() => say({ over: true }), (error) => say({ over: true, error: told(error) }));

for await (const line of createInterface({ input: process.stdin })) {
  const [reply, method, ...given] = JSON.parse(line);
  const done = own[method] ? own[method](...given) : stream[method](...given.map(meant));
  Promise.resolve(done).then((value) => say({ reply, value }), (error) => say({ reply, error: told(error) }));
}
stream.close();
