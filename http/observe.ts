/** Routes for observation: the metrics, JupyterLab's activity and log, and the events of the lifecycle. */
import { Elysia } from "elysia";
import type { Supervisor } from "../jupyter.ts";
import { type LifecycleEvent, MAX_SAMPLES } from "../lab/history.ts";
import { MAX_LINES } from "../lab/log-lines.ts";
import type { Services } from "../lab/start.ts";
import { ServiceError } from "../lib/errors.ts";
import { loadOnce } from "../lib/load-once.ts";
import type { ProxyStats } from "./proxy.ts";
import { readFlag, readParameter } from "./request.ts";
import { ACTIVITY_ROUTE, DEFAULT_TAIL_LINES, EVENTS_ROUTE, LOGS_ROUTE, METRICS_ROUTE } from "./route-docs.ts";
import { readLastId, STREAM_HEADERS, streamEvents } from "./sse.ts";

/** Samples that may wait before the metrics are loaded: half of what the history keeps at least. */
const MAX_WAITING_SAMPLES = MAX_SAMPLES / 2;

/** Routes for an app that authorizes requests and writes errors. At most `maxStreams` event streams are open at once. */
export function observe(services: Services, supervisor: Supervisor, maxStreams: number, proxyStats?: ProxyStats) {
  const { logFile, history } = services;
  // Loaded on the first request, or before the history would drop samples: many control APIs are never scraped.
  const loadMetrics = loadOnce(async () => {
    unlisten();
    const { Metrics } = await import("./metrics.ts");
    return new Metrics(services, supervisor, proxyStats);
  });
  const unlisten = history.samples.listen(() => {
    if (history.samples.count >= MAX_WAITING_SAMPLES) void loadMetrics();
  });
  const requireStream = () => {
    if (history.events.listeners + logFile.lines.listeners < maxStreams) return;
    throw new ServiceError(
      "too_many_connections",
      `The control API allows ${maxStreams} open event streams, and all of them are in use; close one first`,
    );
  };
  return new Elysia({ normalize: false })
    .get(
      "/metrics",
      async () => {
        const metrics = await loadMetrics();
        return new Response(await metrics.render(), { headers: { "content-type": metrics.contentType } });
      },
      METRICS_ROUTE,
    )
    .get("/api/servers/activity", () => supervisor.activity(), ACTIVITY_ROUTE)
    .get(
      "/api/servers/events",
      ({ request, set }) => {
        requireStream();
        Object.assign(set.headers, STREAM_HEADERS);
        const last = readLastId(request.headers.get("last-event-id"), history.events);
        return isHead(request)
          ? new Response()
          : streamEvents(history.events, last ?? history.beforeCurrent, renderLifecycleEvent);
      },
      EVENTS_ROUTE,
    )
    .get(
      "/api/servers/logs",
      ({ request, set }) => {
        const tail = readTail(request);
        const follow = readFlag(request, "follow");
        const shown = logFile.since(Math.max(0, logFile.mark() - tail));
        if (!follow) {
          const text = tail === 0 ? [] : shown.slice(-tail);
          return new Response(text.map((line) => `${line}\n`).join(""), {
            headers: { "content-type": "text/plain; charset=utf-8" },
          });
        }
        requireStream();
        Object.assign(set.headers, STREAM_HEADERS);
        if (isHead(request)) return new Response();
        const { lines } = logFile;
        const lastEventId = request.headers.get("last-event-id");
        // A reader with an id of another program has seen none of these lines.
        const last =
          readLastId(lastEventId, lines) ??
          (lastEventId ? lines.first - 1 : Math.max(lines.count - tail, lines.first - 1));
        return streamEvents(lines, last, (data) => ({ event: "line", data }));
      },
      LOGS_ROUTE,
    );
}

/** A HEAD request gets the headers of a stream only: the framework would wait for the end of the body to drop it. */
function isHead(request: Request): boolean {
  return request.method === "HEAD";
}

function renderLifecycleEvent({ event, data }: LifecycleEvent) {
  return { event, data: JSON.stringify(data) };
}

function readTail(request: Request): number {
  const text = readParameter(request, "tail");
  const tail = text === undefined ? DEFAULT_TAIL_LINES : /^\d{1,6}$/.test(text) ? Number(text) : Number.NaN;
  if (tail <= MAX_LINES) return tail;
  throw new ServiceError("invalid_options", `"tail" must be a whole number from 0 to ${MAX_LINES}`);
}
