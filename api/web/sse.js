/**
 * Server-sent events over a byte stream, as the HTML standard reads them: UTF-8 split anywhere, lines ended by LF,
 * CRLF or CR, and a block that was not ended by a blank line is discarded, so its id never counts as seen.
 *
 * @typedef {object} SseEvent
 * @property {string} type   the `event` field, or `message`
 * @property {string} data   the `data` lines, joined by LF
 * @property {string} [id]   only where this very block named one
 */

export class SseParser {
  /** Reconnection time in ms the server asked for; undefined until it did. */
  retry;

  #decoder = new TextDecoder();
  #partial = "";
  #afterCr = false;
  #block = {};

  /** @param {(event: SseEvent) => void} onEvent called for every finished block that has data */
  constructor(onEvent) {
    this.onEvent = onEvent;
  }

  /** @param {Uint8Array} bytes the next piece of the stream */
  push(bytes) {
    let text = this.#decoder.decode(bytes, { stream: true });
    // A CR ended its line already; the LF that may follow in the next piece belongs to it.
    if (this.#afterCr && text) {
      this.#afterCr = false;
      if (text[0] === "\n") text = text.slice(1);
    }
    if (text) this.#afterCr = text.endsWith("\r");
    // Only the new piece is searched: a long line that comes in many pieces is looked at once.
    const lines = text.split(/\r\n|\n|\r/);
    lines[0] = this.#partial + lines[0];
    this.#partial = lines.pop();
    for (const line of lines) this.#line(line);
  }

  #line(line) {
    if (line === "") return this.#dispatch();
    const colon = line.indexOf(":");
    if (colon === 0) return; // a comment: its bytes were the sign of life
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + (line[colon + 1] === " " ? 2 : 1));
    this.#field(name, value);
  }

  #field(name, value) {
    if (name === "data") (this.#block.data ??= []).push(value);
    else if (name === "event") this.#block.type = value;
    else if (name === "id" && !value.includes("\0")) this.#block.id = value;
    else if (name === "retry" && /^\d+$/.test(value)) this.retry = Number(value);
  }

  #dispatch() {
    const { data, type, id } = this.#block;
    this.#block = {};
    if (data) this.onEvent({ type: type || "message", data: data.join("\n"), id });
  }
}

/**
 * Read a stream to its end. Resolves at a clean end; rejects where the connection was cut.
 *
 * @param {ReadableStream<Uint8Array>} stream
 * @param {SseParser} parser
 * @param {() => void} [onBytes] called for every piece, comments included
 */
export async function readSse(stream, parser, onBytes = () => {}) {
  const reader = stream.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      onBytes();
      parser.push(value);
    }
  } finally {
    // Closes the connection when the parser's consumer threw. On an ended or cut stream there is nothing to close.
    reader.cancel().catch(() => {});
  }
}
