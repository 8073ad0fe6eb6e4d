/** What tells that a connection is no good any more, or that a new one may be. */

/** Aborts `controller` when reset() has not been called for `ms`. Runs from the start: a connect can hang too. */
export function watchdog(ms, controller) {
  let timer;
  const stop = () => clearTimeout(timer);
  const reset = () => {
    stop();
    timer = setTimeout(() => controller.abort(), ms);
  };
  reset();
  return { reset, stop };
}

export const isOffline = () => globalThis.navigator?.onLine === false;

/**
 * A network that comes back and a page that comes to the front are better advice than any timer.
 * @param {{online: () => void, offline: () => void, shown: () => void}} acts
 * @returns {() => void} stops watching
 */
export function watchSurroundings({ online, offline, shown }) {
  const stop = new AbortController();
  const on = (target, name, act) => target?.addEventListener?.(name, act, { signal: stop.signal });
  on(globalThis, "online", online);
  on(globalThis, "offline", offline);
  on(globalThis.document, "visibilitychange", () => document.visibilityState === "visible" && shown());
  return () => stop.abort();
}
