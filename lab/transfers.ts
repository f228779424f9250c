/** Bodies and answers on their way between a client and JupyterLab, as far as they pass through this program. */

/** A body or an answer that is being handed on. */
export interface Transfer {
  /** When bytes of it moved last, in milliseconds since 1970. */
  movedAt: number;
  end: () => void;
}

/** The transfers under way. They are work for as long as their bytes move. */
export class Transfers {
  #open = new Set<Transfer>();
  #pauseMs: number;

  /** One without traffic for longer than `pauseMs` is a client that has gone, or an answer that waits for something. */
  constructor(pauseMs: number) {
    this.#pauseMs = pauseMs;
  }

  /** Has to be followed by its `end`. */
  begin(): Transfer {
    const transfer = { movedAt: Date.now(), end: () => void this.#open.delete(transfer) };
    this.#open.add(transfer);
    return transfer;
  }

  /** Whether bytes of any of them have moved lately. */
  get areMoving(): boolean {
    const now = Date.now();
    return [...this.#open].some(({ movedAt }) => now - movedAt <= this.#pauseMs);
  }
}
