/** Keeps the newest text in sight while the reader is at the bottom, and leaves a reader who scrolled up alone. */

const NEAR_PX = 60;

export class Sticky {
  #box;
  #jump;
  #stuck = true;

  /**
   * @param {HTMLElement} box     what scrolls; its first child holds the content
   * @param {HTMLElement} jump    the button that leads back to the bottom
   */
  constructor(box, jump) {
    this.#box = box;
    this.#jump = jump;
    box.addEventListener("scroll", () => this.#look(), { passive: true });
    jump.addEventListener("click", () => this.toBottom());
    // The content grows, the phone's keyboard opens, the input gets taller: all of it moves the bottom.
    const sizes = new ResizeObserver(() => this.#settle());
    sizes.observe(box);
    sizes.observe(box.firstElementChild);
  }

  toBottom() {
    this.#stuck = true;
    this.#settle();
  }

  #settle() {
    if (this.#stuck) this.#box.scrollTop = this.#box.scrollHeight;
    this.#look();
  }

  #look() {
    const { scrollHeight, scrollTop, clientHeight } = this.#box;
    this.#stuck = scrollHeight - scrollTop - clientHeight < NEAR_PX;
    this.#jump.hidden = this.#stuck;
  }
}
