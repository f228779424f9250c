/** The policy of automatic restarts: at once, then after growing pauses, and not for ever. */

/** Pauses before the first, second and third automatic restart; there is no fourth within the window. */
const PAUSES_MS = [0, 500, 2000];
const WINDOW_MS = 10 * 60 * 1000;

export class RestartPolicy {
  /** When restarts were granted, on a clock that does not jump. */
  #times: number[] = [];

  /** Grants one more restart: the pause before it, in milliseconds. Undefined: there were too many. */
  grant(): number | undefined {
    const now = performance.now();
    this.#times = this.#times.filter((time) => now - time < WINDOW_MS);
    const pauseMs = PAUSES_MS[this.#times.length];
    if (pauseMs !== undefined) this.#times.push(now);
    return pauseMs;
  }

  /** Somebody asked for a start: what was before does not count. */
  reset(): void {
    this.#times = [];
  }
}
