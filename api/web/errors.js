/** Statuses of a stream or its token that asking again cannot change. All others are passing trouble. */
const REFUSED = new Set([400, 401, 403, 404, 410, 422]);
export const isRefused = (status) => REFUSED.has(status);

/** Worth another try of the same request: overload and trouble on the server's side. Everything else is an answer. */
export const isPassing = (status) => status === 408 || status === 425 || status === 429 || status >= 500;
/** The same by the error codes of a socket's frames, which bear no status. */
const PASSING = new Set([
  "authentication_unavailable", "draining", "internal", "rate_limited", "redis_unavailable", "too_many_sessions", "too_many_streams",
]);
export const isPassingCode = (code) => PASSING.has(code);

/** Anything Holdfast refuses or cannot do, with the code the API uses on the wire. */
export class HoldfastError extends Error {
  /**
   * @param {string} code    stable, for programs: `session_not_found`, `generation_running`, `network`, …
   * @param {string} message for people
   * @param {number} status  HTTP status; 0 where no answer came at all
   */
  constructor(code, message, status = 0) {
    super(message);
    this.name = "HoldfastError";
    this.code = code;
    this.status = status;
  }

  /** Read an error answer. A proxy on the way may have written it, so anything but our shape is accepted too. */
  static async from(response) {
    const body = await response.json().catch(() => null);
    const { code = "http_error", message = `The server answered ${response.status}` } = body?.error ?? {};
    return new HoldfastError(code, message, response.status);
  }
}
