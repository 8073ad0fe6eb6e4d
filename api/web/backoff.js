/** Waiting between tries: exponential, jittered (many clients must not come back in step), and interruptible. */

const CAP_MS = 15_000;

/** ms to wait before try number `tries` + 1. `base` is the first wait; ±25 % jitter. */
export function backoff(tries, base) {
  return Math.min(CAP_MS, base * 2 ** Math.min(tries, 16)) * (0.75 + Math.random() / 2);
}

/** ms a `Retry-After: <seconds>` header asks for; 0 without one. */
export function retryAfter(response) {
  return 1000 * (Number(response?.headers.get("retry-after")) || 0);
}

/** Resolves after `ms`, or at once when `signal` aborts. Never rejects: the caller looks at its own state. */
export function pause(ms, signal) {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve();
    const finish = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", finish);
      resolve();
    };
    const timer = setTimeout(finish, ms);
    signal?.addEventListener("abort", finish);
  });
}
