/** A numbered history with an end that is kept, for readers who come and go, and its stream of server-sent events. */

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

/** One event before it is written: its name, and its data, which may have several lines. */
export interface Frame {
  event: string;
  data: string;
}

/** Proxies and Bun cut a connection that is silent; the contract promises a sign every 8 s. */
const HEARTBEAT_MS = 5000;
/** What waits for a reader is at most this, and one frame. All else waits in the feed, once for all readers. */
const MAX_WAITING_BYTES = 64 * 1024;
/** A reader that has taken nothing for this long, while there was something, is cut. */
const STALL_LIMIT_MS = 30_000;
/** How long a client that was cut waits before it comes back. */
const RETRY_MS = 1000;

/** The headers that a stream needs on its way: nobody may keep it, compress it, or wait for it to fill a buffer. */
export const STREAM_HEADERS = {
  "content-type": "text/event-stream; charset=utf-8",
  "cache-control": "no-store, no-transform",
  "x-accel-buffering": "no",
};

/**
 * The number in a `Last-Event-ID` header. Undefined where there is none, or one that this feed has not given: it is of
 * another program then.
 */
export function readLastId(
  header: string | null,
  { origin, count }: { readonly origin: number; readonly count: number },
): number | undefined {
  const number = /^\d{1,16}$/.test(header ?? "") ? Number(header) - origin : -1;
  return number >= 0 && number <= count ? number : undefined;
}

/**
 * Streams what comes after `last`, each item under its number. Where items are not kept any more, an event `gap` says how
 * many were lost. It ends with the feed, or when its reader goes away or is cut.
 */
export function streamFeed<T>(
  feed: Feed<T>,
  last: number,
  render: (item: T) => Frame,
  { heartbeatMs = HEARTBEAT_MS, stallLimitMs = STALL_LIMIT_MS } = {},
): Response {
  const encoder = new TextEncoder();
  let sent = last;
  let movedAt = performance.now();
  let release = () => {};
  let drain = () => {};
  const body = new ReadableStream<Uint8Array>(
    {
      start(controller) {
        const write = (text: string) => controller.enqueue(encoder.encode(text));
        const isFull = () => (controller.desiredSize ?? 0) <= 0;
        drain = () => {
          while (!isFull() && sent < feed.count) {
            const lost = feed.first - 1 - sent;
            sent += Math.max(lost, 1);
            const frame = lost > 0 ? { event: "gap", data: String(lost) } : render(feed.at(sent) as T);
            write(format(frame, feed.origin + sent));
            movedAt = performance.now();
          }
          if (feed.closed && sent === feed.count) {
            release();
            controller.close();
          }
        };
        const beat = setInterval(() => {
          if (!isFull()) return write(":\n\n");
          if (performance.now() - movedAt < stallLimitMs) return;
          release();
          controller.error(new Error("The reader does not read"));
        }, heartbeatMs);
        beat.unref?.();
        const unlisten = feed.listen(drain);
        release = () => {
          clearInterval(beat);
          unlisten();
        };
        write(`retry: ${RETRY_MS}\n\n`);
        drain();
      },
      pull: () => drain(),
      cancel: () => release(),
    },
    new ByteLengthQueuingStrategy({ highWaterMark: MAX_WAITING_BYTES }),
  );
  return new Response(body, { headers: STREAM_HEADERS });
}

/** A carriage return within a line ends a line of the wire, too: it begins a new one. */
function format({ event, data }: Frame, id: number): string {
  const lines = data.split(/\r\n|\r|\n/).map((line) => `data: ${line}\n`);
  return `id: ${id}\nevent: ${event}\n${lines.join("")}\n`;
}
