/** A random idempotency key. `randomUUID` exists only in secure contexts; a page served over plain http in a local network is none. */
export function newKey() {
  return crypto.randomUUID?.() ?? Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");
}
