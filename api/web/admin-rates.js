/** Rates out of counters that only grow, from answers that come when they come. Pure. */

export class Meter {
  /** Oldest first: what the counter was, and when. */
  #seen = [];

  /** @param {number} windowMs  0: between the last two answers; else over so long, also while less is known */
  constructor(windowMs = 0) {
    this.windowMs = windowMs;
  }

  /**
   * @param {number} count  since some start
   * @param {number} at     ms at which it was that, by the counter's own clock
   * @returns {number | null} per second; null before there are two different times
   */
  take(count, at) {
    const last = this.#seen.at(-1);
    if (last && count < last.count) this.#seen = []; // it began anew
    if (!last || at > last.at || !this.#seen.length) this.#seen.push({ count, at });
    while (this.#seen.length > 2 && this.#seen[1].at <= at - this.windowMs) this.#seen.shift();
    const [first, newest] = [this.#seen[0], this.#seen.at(-1)];
    if (first === newest) return null;
    return (newest.count - first.count) / (Math.max(this.windowMs, newest.at - first.at) / 1000);
  }
}

/** The same for many sources that come and go, such as workers. */
export class Meters {
  #meters = new Map();

  /** @param {number} [windowMs] see Meter */
  constructor(windowMs) {
    this.windowMs = windowMs;
  }

  /**
   * @param {{name: string, count: number, at: number}[]} sources all there are now
   * @returns {Map<string, number | null>} rate per second by name
   */
  take(sources) {
    const names = new Set(sources.map(({ name }) => name));
    for (const name of this.#meters.keys()) if (!names.has(name)) this.#meters.delete(name);
    return new Map(sources.map(({ name, count, at }) => {
      if (!this.#meters.has(name)) this.#meters.set(name, new Meter(this.windowMs));
      return [name, this.#meters.get(name).take(count, at)];
    }));
  }
}

/** Null where nobody can say yet. */
export function total(rates) {
  const known = [...rates.values()].filter((rate) => rate !== null);
  return known.length ? known.reduce((sum, rate) => sum + rate, 0) : null;
}
