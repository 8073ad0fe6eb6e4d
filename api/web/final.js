/** Carries an error that ends a following past those that only end one of its connections. */
export class Final extends Error {
  /** @param {Error} cause what the follower's owner is told */
  constructor(cause) {
    super("final", { cause });
  }
}

/** JSON from the server. Broken JSON is no better on another connection. */
export function parse(text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Final(error);
  }
}
