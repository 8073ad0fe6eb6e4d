/** What the code with which a session's socket was closed says to the one who follows. The README has it as a table. */

/** What was sent is at fault. */
const FAULTS = new Set([1003, 1007]);
/** A command was larger than the server takes. Without that command, following can go on. */
const TOO_LARGE = 1009;
/** Error codes for closes by the server's protocol layer, whose reasons are prose. */
const NAMES = { 1003: "binary_frame", 1007: "invalid_utf8", [TOO_LARGE]: "frame_too_large" };

/**
 * @param {number} code
 * @returns {"again" | "again without" | "never"}  whether to come back; `again without` the commands under way. 44xx is
 *   an HTTP status with 4 before it: the session is at fault. What is not known here is passing trouble
 */
export function afterClose(code) {
  if (code === TOO_LARGE) return "again without";
  return FAULTS.has(code) || (code >= 4400 && code <= 4499) ? "never" : "again";
}

/** The error's code. The reason names it, where it is the application that closed. */
export const nameOfClose = (code, reason) => NAMES[code] ?? (reason || `closed_${code}`);
