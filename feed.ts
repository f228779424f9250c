/** A numbered history with an end that is kept, for readers who come and go: lines of a log, events. */

/** Items are numbered from 1 on. Of a long history the last `limit` items are kept at least, twice as many at most. */
export class Feed<T> {
  /**
   * What is added to a number where other programs see it, so that those of an earlier control API are told from these: by
   * default the microseconds since 1970 at its making, for no feed gets an item in each of them.
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

  /** Number of the oldest item that is kept; one more than `count` where there is none. */
  get first(): number {
    return this.#count - this.#items.length + 1;
  }

  /** Whether nothing will follow. */
  get closed(): boolean {
    return this.#closed;
  }

  /** How many listen. */
  get listeners(): number {
    return this.#listeners.size;
  }

  /** Adds an item and tells who listens. */
  add(item: T): void {
    this.#items.push(item);
    this.#count += 1;
    if (this.#items.length > 2 * this.#limit) this.#items.splice(0, this.#items.length - this.#limit);
    for (const listener of this.#listeners) listener();
  }

  /** The item of this number; undefined where it is not kept any more, or does not exist yet. */
  at(number: number): T | undefined {
    return this.#items[number - this.first];
  }

  /** The items that came after this number, as far as they are kept. */
  after(number: number): T[] {
    return this.#items.slice(Math.max(0, number + 1 - this.first));
  }

  /** Calls `listener` after each addition and at the end, until the returned function is called. */
  listen(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  /** Ends it: readers that have read all are done. What is kept stays. */
  close(): void {
    this.#closed = true;
    for (const listener of this.#listeners) listener();
  }
}
