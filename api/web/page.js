/** The page: one conversation, named by the URL's fragment, so a refresh or another tab goes on exactly. */

import { Announcer } from "./announcer.js";
import { Composer } from "./composer.js";
import { byId } from "./dom.js";
import { Drawer } from "./drawer.js";
import { Holdfast, TERMINALS, Transcript } from "./holdfast.js";
import { Sticky } from "./scroll.js";
import { connection, notice } from "./signs.js";
import { Thread } from "./thread.js";
import { titles } from "./titles.js";

/** A replay is shown in one go, unless it takes longer than this. */
const HOLD_BACK_MS = 400;

const client = new Holdfast();
const announcer = new Announcer(byId("announcer"));
const sticky = new Sticky(byId("scroller"), byId("jump"));
const thread = new Thread(byId("thread"), { answer, retry, drawn });
const composer = new Composer({ submit, stop });
const drawer = new Drawer({ client, removed: (id) => id === session.id && fresh() });

/**
 * What is on the screen. `stream` is null before the first message. `late`: shown as it comes, not in one go.
 * `current`: the log is here up to now. `resting`: not followed while nobody looks. `gone`: the server has it no more.
 */
let session = blank("");

function blank(id) {
  return { id, transcript: new Transcript(), stream: null, shown: false, late: false, current: false, resting: false, gone: false };
}

/** Show the session the URL names. Everything that changes sessions goes through the URL. */
function route() {
  const id = location.hash.slice(1);
  if (id !== session.id || !session.stream) open(id);
}

function open(id) {
  session.stream?.close();
  session = blank(id);
  drawer.current = id;
  notice("");
  connection("");
  composer.mode = "idle";
  thread.show(null);
  announcer.reset();
  view(id ? "loading" : "empty");
  if (id) follow(session);
  composer.focus();
}

function fresh() {
  history.pushState(null, "", location.pathname + location.search);
  open("");
}

function view(name) {
  document.body.dataset.view = name;
}

/** Follow from the cursor on; from the start the first time. */
function follow(here) {
  here.resting = here.current = false;
  const current = (act) => (...args) => here === session && act(...args);
  here.stream = client.follow(here.id, {
    after: here.stream?.cursor,
    transport: composer.transport,
    onEvent: ({ type, data }) => take(here, type, data),
    onState: current((state, { error }) => (error ? lost(error) : connection(state))),
  });
  if (!here.shown) setTimeout(current(tooLong), HOLD_BACK_MS);
}

function take(here, type, data) {
  here.transcript.apply(type, data);
  if (here !== session) return;
  if (type === "message" && data.role === "user" && !titles.get(here.id)) titles.set(here.id, data.content);
  const over = Object.hasOwn(TERMINALS, type);
  here.current ||= type === "caught_up";
  if (type === "caught_up" || here.late) reveal();
  if (here.shown) thread.draw();
  if (here.shown && (over || type === "generation.started")) drawer.refresh();
  // Now, and not when it is drawn: after an interruption another message is the newest by then.
  if (here.shown && over) announcer.follow(here.transcript.last);
  if (over || type === "caught_up") rest();
}

function tooLong() {
  session.late = true;
  reveal();
}

/** Put the replayed conversation on the screen, once. What is there already is not read aloud. */
function reveal() {
  if (session.shown || !session.transcript.messages.length) return;
  session.shown = true;
  announcer.follow(session.transcript.last, true);
  view("conversation");
  thread.show(session.transcript);
  sticky.toBottom();
  drawer.refresh();
}

function drawn(transcript, sending) {
  composer.mode = sending ? "sending" : modeOf(transcript);
  announcer.follow(transcript?.last);
}

function modeOf(transcript) {
  if (!transcript?.live) return "idle";
  return transcript.last.question ? "asking" : "answering";
}

/** Say something: the answer to what is asked, or the next turn. `more` overrides what the composer chose, for a new conversation. */
async function submit(text, more = {}) {
  if (session.gone) fresh();
  const here = session;
  notice("");
  const { question } = here.transcript.last ?? {};
  if (question) return answer(question, text).catch(() => giveBack(text));
  view("conversation");
  thread.expect(text);
  sticky.toBottom();
  composer.mode = "sending";
  try {
    await (here.id ? next(here, text) : begin(here, text, more));
  } catch (error) {
    if (here === session) refused(text, error);
  }
}

async function begin(here, text, more) {
  const { id } = await client.create({ input: text, ...composer.choice, ...more });
  titles.set(id, text);
  if (here !== session) return;
  here.id = id;
  here.shown = true;
  history.pushState(null, "", `#${id}`);
  drawer.current = id;
  // What is awaited stays on the screen until the log brings it.
  thread.adopt(here.transcript);
  follow(here);
}

/** Only an answer that is seen here is cut off: one that another tab has just asked for is not. */
async function next(here, text) {
  const { pipeline: _, ...choice } = composer.choice;
  await speaker(here).send(text, { ...choice, ...(here.transcript.live ? { interrupt: true } : {}) });
  here.stream.wake();
}

/** The session as it is followed: followed again, where it was not any more. */
function speaker(here) {
  if (here.resting || ["done", "failed"].includes(here.stream.state)) follow(here);
  return here.stream;
}

/** Nothing was sent: the text goes back to where it can be changed or sent again. */
function refused(text, error) {
  thread.forget();
  thread.draw();
  if (!session.id) view("empty");
  giveBack(text);
  notice(error.message);
}

function giveBack(text) {
  if (!composer.text) composer.fill(text);
  composer.focus();
}

function retry() {
  submit(session.transcript.lastInput);
}

async function stop() {
  if (!session.id || !session.transcript.live) return;
  composer.stopping = true;
  try {
    await speaker(session).stop();
  } catch (error) {
    // What was to be stopped is over: another tab has interrupted it.
    if (error.code !== "other_generation") notice(error.message);
  } finally {
    composer.stopping = false;
  }
}

async function answer(question, text) {
  try {
    await speaker(session).answer(question.id, text);
  } catch (error) {
    notice(error.message);
    throw error;
  }
}

const FATES = {
  session_not_found: "This conversation does not exist.",
  session_deleted: "This conversation was deleted.",
  session_expired: "This conversation has expired.",
};

/** The stream cannot go on. */
function lost(error) {
  connection("failed");
  session.gone = error.status === 404 || error.status === 410;
  notice(FATES[error.code] ?? error.message, ["New conversation", fresh]);
  if (!session.transcript.messages.length) view("empty");
}

function escape(event) {
  if (event.key !== "Escape" || event.defaultPrevented || byId("settings").matches(":popover-open")) return;
  if (drawer.covers) drawer.set(false);
  else stop();
}

/** Browsers allow few connections per server: a tab in the background with nothing to wait for gives its one back. */
function rest() {
  const idle = session.current && !session.transcript.live && !thread.awaits;
  if (document.visibilityState !== "hidden" || !idle) return;
  session.stream.close();
  session.resting = true;
}

/** The session may have gone on in another tab meanwhile. */
function lookAgain() {
  if (document.visibilityState === "hidden") return rest();
  drawer.refresh();
  if (session.resting || session.stream?.state === "done") follow(session);
}

function changeTransport({ target }) {
  if (target.name !== "transport" || !session.stream) return;
  session.stream.close();
  follow(session);
}

addEventListener("hashchange", route);
addEventListener("popstate", route);
addEventListener("keydown", escape);
document.addEventListener("visibilitychange", lookAgain);
byId("settings").addEventListener("change", changeTransport);
byId("new").addEventListener("click", fresh);
byId("ideas").addEventListener("click", ({ target }) => target.matches("button") && submit(target.textContent, { ...target.dataset }));
open(location.hash.slice(1));
