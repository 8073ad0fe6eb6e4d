// A Follower in Node, driven by lines of JSON: `[call number, method, ...arguments]` in; out come
// `{event}`, `{state}`, `{reply, value | error}` and, when the following is over, `{over, error}`. With `clock`, time
// stands still but for `tick(ms)`.
import { mock } from "node:test";
import { createInterface } from "node:readline";

const [module, base, session, options] = process.argv.slice(2);
const { Holdfast } = await import(module);
const { eager, clock, headers, ...following } = JSON.parse(options);
if (clock) mock.timers.enable({ apis: ["setTimeout"] });
const say = (what) => process.stdout.write(`${JSON.stringify(what)}\n`);
const told = ({ code, message }) => ({ code: code ?? "thrown", message });

const stream = new Holdfast({ base, headers }).follow(session, {
  ...following,
  onEvent: (event) => say({ event }),
  onState: (state) => say({ state }),
});
if (eager) setInterval(() => stream.state === "reconnecting" && stream.wake(), 10).unref();
stream.done.then(() => say({ over: true }), (error) => say({ over: true, error: told(error) }));

for await (const line of createInterface({ input: process.stdin })) {
  const [reply, method, ...given] = JSON.parse(line);
  const done = method === "tick" ? mock.timers.tick(...given) : stream[method](...given);
  Promise.resolve(done).then((value) => say({ reply, value }), (error) => say({ reply, error: told(error) }));
}
stream.close();
