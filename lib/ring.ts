/** A bounded, numbered history: a ring buffer whose readers can wait for what is added. */

/** Items are numbered from 1. At least the last `limit` items are kept, and at most twice as many. */
export class RingBuffer<T> {
  /**
   * Added to a number where other programs see it, so that numbers of an earlier process differ from those of this one.
   * The default is the microseconds since 1970 when the buffer is made: no buffer gets an item each microsecond.
   */
  readonly origin: number;
  #items: T[] = [];
  #count = 0;
  #limit: number;
  #listeners = new Set<() => void>();
  #closed = false;

  constructor(limit: number, origin = Date.now() * 1000) {
    this.#limit = limit;
    this.origin = origin;
  }

  /** Number of the last item; 0 before the first one. */
  get count(): number {
    return this.#count;
  }

  /** Number of the oldest item that is kept; one more than `count` when there is none. */
  get first(): number {
    return this.#count - this.#items.length + 1;
  }

  /** Whether nothing more will be added. */
  get closed(): boolean {
    return this.#closed;
  }

  /** Number of listeners. */
  get listeners(): number {
    return this.#listeners.size;
  }

  /** Adds an item and calls every listener. */
  add(item: T): void {
    this.#items.push(item);
    this.#count += 1;
    if (this.#items.length > 2 * this.#limit) this.#items.splice(0, this.#items.length - this.#limit);
    for (const listener of this.#listeners) listener();
  }

  /** The item with this number; undefined when it is no longer kept, or does not exist yet. */
  at(number: number): T | undefined {
    return this.#items[number - this.first];
  }

  /** The items after this number that are still kept. */
  after(number: number): T[] {
    return this.#items.slice(Math.max(0, number + 1 - this.first));
  }

  /** Calls `listener` after each addition and on `close`, until the returned function is called. */
  listen(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  /** Nothing more is added: readers that have read everything are done. The items stay. */
  close(): void {
    this.#closed = true;
    for (const listener of this.#listeners) listener();
  }
}
