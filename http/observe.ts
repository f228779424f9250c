/** The routes that watch: what JupyterLab does, what it logs, what happens to it, and the meters. */
import { Type } from "@sinclair/typebox";
import { Elysia } from "elysia";
import type { Supervisor } from "../jupyter.ts";
import { type Entry, MAX_SAMPLES } from "../lab/history.ts";
import type { Context } from "../lab/lab.ts";
import { MAX_LINES } from "../lab/log-file.ts";
import { ServiceError } from "../lib/errors.ts";
import { readLastId, STREAM_HEADERS, streamFeed } from "../lib/ring.ts";
import { readFlag } from "./auth.ts";
import type { Meters } from "./metrics.ts";
import { ActivityAnswer, COMMON_ERRORS, documentAnswers } from "./schemas.ts";

const TAIL_LINES = 200;
/** So many samples may wait for the meters: half of what the journal keeps at least. */
const MAX_UNCOUNTED = MAX_SAMPLES / 2;

const LastEventId = Type.Object({
  "last-event-id": Type.Optional(
    Type.String({ description: "Goes on after the event of this id, as far as the events are still kept." }),
  ),
});
const LogQuery = Type.Object(
  {
    tail: Type.Optional(
      Type.String({ description: `A whole number from 0 to ${MAX_LINES}: so many of the last lines; ${TAIL_LINES}.` }),
    ),
    follow: Type.Optional(Type.String({ description: "True or false: whether the lines that follow are streamed." })),
  },
  { additionalProperties: true },
);

const LOG_EXAMPLE = "[I 2026-11-24 12:35:01.123 ServerApp] Jupyter Server 2.21.1 is running at:\n";
const LINE_EXAMPLE = `retry: 1000\n\nid: 1763988893175012\nevent: line\ndata: ${LOG_EXAMPLE}\n`;
const EVENT_EXAMPLE = `retry: 1000

id: 1763988893175007
event: state
data: {"state":"starting","at":"2026-11-24T12:35:00.100Z","ms":5021.7,"restarts":0}

id: 1763988893175008
event: phase
data: {"phase":"handover","ms":0.6,"total_ms":0.6}

`;

const METRICS_EXAMPLE = `# HELP jupyter_server_starts_total Starts that have ended.
# TYPE jupyter_server_starts_total counter
jupyter_server_starts_total{kind="standby",result="success"} 3
`;

/** Routes for an app whose hooks admit requests and write errors. */
export function watch({ supervisor, context }: Watched) {
  const { output, journal } = context;
  let meters: Promise<Meters> | undefined;
  // Loaded when it is first asked for: a control API that nobody scrapes does without, until the journal would forget.
  const loadMeters = () => {
    unlisten();
    meters ??= import("./metrics.ts").then(({ Meters }) => new Meters(context, supervisor));
    return meters;
  };
  const unlisten = journal.samples.listen(() => {
    if (journal.samples.count >= MAX_UNCOUNTED) void loadMeters();
  });
  return new Elysia({ normalize: false })
    .get(
      "/metrics",
      async () => {
        const meters = await loadMeters();
        return new Response(await meters.render(), { headers: { "content-type": meters.contentType } });
      },
      {
        detail: {
          summary: "Show the meters",
          description:
            "In Prometheus' text format: starts by kind and result, durations of starts, of their phases and of stops, the state, automatic restarts, kernels, idle seconds, the gateway, and resident memory by process. Asking is not activity.",
          tags: ["watching"],
          responses: documentAnswers(
            {
              200: {
                description: "Counted since the program's start",
                content: { "text/plain": { schema: Type.String(), example: METRICS_EXAMPLE } },
              },
            },
            [...COMMON_ERRORS],
          ),
        },
      },
    )
    .get("/api/servers/activity", () => supervisor.activity(), {
      detail: {
        summary: "Show what JupyterLab does",
        description:
          "Kernels and terminals, whether one is at work, and how long nobody has used it. Asking is not activity.",
        tags: ["watching"],
        responses: documentAnswers({ 200: ["Now, or at most two seconds ago", ActivityAnswer] }, [...COMMON_ERRORS]),
      },
    })
    .get(
      "/api/servers/events",
      ({ request, set }) => {
        Object.assign(set.headers, STREAM_HEADERS);
        const last = readLastId(request.headers.get("last-event-id"), journal.entries);
        return isHead(request) ? new Response() : streamFeed(journal.entries, last ?? journal.past, renderEntry);
      },
      {
        headers: LastEventId,
        detail: {
          summary: "Follow the lifecycle",
          description:
            "Server-sent events: `state` for each state that is entered, `phase` for each phase of a start as it ends, with milliseconds. The first event is the present state. An event `gap` says how many are lost to a Last-Event-ID. A comment at least every 8 s.",
          tags: ["watching"],
          responses: documentAnswers(
            {
              200: {
                description: "Ends with the program",
                content: { "text/event-stream": { schema: Type.String(), example: EVENT_EXAMPLE } },
              },
            },
            [...COMMON_ERRORS],
          ),
        },
      },
    )
    .get(
      "/api/servers/logs",
      ({ query, request, set }) => {
        const tail = readTail(query.tail);
        const follow = readFlag("follow", query.follow);
        const shown = output.since(Math.max(0, output.mark() - tail));
        if (!follow) {
          const text = tail === 0 ? [] : shown.slice(-tail);
          return new Response(text.map((line) => `${line}\n`).join(""), {
            headers: { "content-type": "text/plain; charset=utf-8" },
          });
        }
        Object.assign(set.headers, STREAM_HEADERS);
        if (isHead(request)) return new Response();
        const { lines } = output;
        const asked = request.headers.get("last-event-id");
        // A number of another program's: all that this one has is new to its reader.
        const last =
          readLastId(asked, lines) ?? (asked ? lines.first - 1 : Math.max(lines.count - tail, lines.first - 1));
        return streamFeed(lines, last, (data) => ({ event: "line", data }));
      },
      {
        query: LogQuery,
        headers: LastEventId,
        detail: {
          summary: "Show or follow JupyterLab's output",
          description:
            "The last lines as text, or with `follow=true` as server-sent events: `line`, whose ids grow by one, and `gap` with the number of lines that are lost to a Last-Event-ID. Secrets are masked. A comment at least every 8 s.",
          tags: ["watching"],
          responses: documentAnswers(
            {
              200: {
                description: "Empty where nothing was written yet",
                content: {
                  "text/plain": { schema: Type.String(), example: LOG_EXAMPLE },
                  "text/event-stream": { schema: Type.String(), example: LINE_EXAMPLE },
                },
              },
            },
            ["invalid_options", ...COMMON_ERRORS],
          ),
        },
      },
    );
}

interface Watched {
  supervisor: Supervisor;
  context: Context;
}

/** A stream's headers alone: the framework would wait for the end of its body to leave it out. */
function isHead(request: Request): boolean {
  return request.method === "HEAD";
}

function renderEntry({ event, data }: Entry) {
  return { event, data: JSON.stringify(data) };
}

function readTail(text: string | undefined): number {
  const tail = text === undefined ? TAIL_LINES : /^\d{1,6}$/.test(text) ? Number(text) : Number.NaN;
  if (tail <= MAX_LINES) return tail;
  throw new ServiceError("invalid_options", `"tail" must be a whole number from 0 to ${MAX_LINES}`);
}
