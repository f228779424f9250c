/** Server-sent events: a ring buffer as a stream that can be resumed, with heartbeats and bounded memory. */
import type { RingBuffer } from "../lib/ring.ts";

/** One event before it is written: its name, and its data, which may have several lines. */
interface ServerSentEvent {
  event: string;
  data: string;
}

/** Proxies and Bun close a silent connection; the API promises a heartbeat at least every 8 s. */
const HEARTBEAT_MS = 5000;
/** At most this much, and one event, waits for a slow reader. The rest waits in the ring buffer, once for all readers. */
const MAX_QUEUED_BYTES = 64 * 1024;
/** The stream of a reader that takes nothing for this long, while something waits for it, is ended. */
export const STALL_LIMIT_S = 30;
/** How long a client waits before it reconnects. */
const RETRY_MS = 1000;

/** Headers of an event stream: proxies must not cache, compress or buffer it. */
export const STREAM_HEADERS = {
  "content-type": "text/event-stream; charset=utf-8",
  "cache-control": "no-store, no-transform",
  "x-accel-buffering": "no",
};

/** Whether an answer is an event stream. */
export function isStream({ headers }: Response): boolean {
  return headers.get("content-type") === STREAM_HEADERS["content-type"];
}

/** The number in a `Last-Event-ID` header. Undefined when there is none, or when another process has given it. */
export function readLastId(
  header: string | null,
  { origin, count }: { readonly origin: number; readonly count: number },
): number | undefined {
  const number = /^\d{1,16}$/.test(header ?? "") ? Number(header) - origin : -1;
  return number >= 0 && number <= count ? number : undefined;
}

/**
 * Streams the items after `last`, each with its number as id. An event `gap` tells how many items were dropped before
 * they could be sent. The stream ends when the buffer is closed, or when its reader disconnects or stalls. Its headers are the
 * route's to set, which answers a HEAD with them too.
 */
export function streamEvents<T>(
  buffer: RingBuffer<T>,
  last: number,
  render: (item: T) => ServerSentEvent,
  { heartbeatMs = HEARTBEAT_MS, stallLimitMs = STALL_LIMIT_S * 1000 } = {},
): Response {
  const encoder = new TextEncoder();
  let sent = last;
  let progressAt = performance.now();
  let release = () => {};
  let send = () => {};
  const body = new ReadableStream<Uint8Array>(
    {
      start(controller) {
        const write = (text: string) => controller.enqueue(encoder.encode(text));
        const isFull = () => (controller.desiredSize ?? 0) <= 0;
        send = () => {
          while (!isFull() && sent < buffer.count) {
            const lost = buffer.first - 1 - sent;
            sent += Math.max(lost, 1);
            const event = lost > 0 ? { event: "gap", data: String(lost) } : render(buffer.at(sent) as T);
            write(format(event, buffer.origin + sent));
            progressAt = performance.now();
          }
          if (buffer.closed && sent === buffer.count) {
            release();
            controller.close();
          }
        };
        const heartbeat = setInterval(() => {
          if (!isFull()) return write(":\n\n");
          if (performance.now() - progressAt < stallLimitMs) return;
          release();
          // Deno writes a stream's error to stderr, with a reason or without. A reader that continues can resume.
          controller.close();
        }, heartbeatMs);
        heartbeat.unref?.();
        const unlisten = buffer.listen(send);
        release = () => {
          clearInterval(heartbeat);
          unlisten();
        };
        write(`retry: ${RETRY_MS}\n\n`);
        send();
      },
      pull: () => send(),
      cancel: () => release(),
    },
    new ByteLengthQueuingStrategy({ highWaterMark: MAX_QUEUED_BYTES }),
  );
  return new Response(body);
}

/** A carriage return also ends a line of the protocol, so each part becomes a `data:` line of its own. */
function format({ event, data }: ServerSentEvent, id: number): string {
  const lines = data.split(/\r\n|\r|\n/).map((line) => `data: ${line}\n`);
  return `id: ${id}\nevent: ${event}\n${lines.join("")}\n`;
}
