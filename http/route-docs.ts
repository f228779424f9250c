/** What the OpenAPI document says of each route: its schemas, prose, answers, errors and examples. */
import { Type } from "@sinclair/typebox";
import { MAX_LINES } from "../lab/log-lines.ts";
import { StartBody } from "../lab/options.ts";
import { Activity } from "../lab/schemas.ts";
import type { ErrorCode } from "../lib/errors.ts";
import { documentResponses, type Media, withResponseTypes } from "./responses.ts";
import { EventStream, MessageAnswer, ServerAnswer, SessionAnswer, TransitionAnswer } from "./schemas.ts";

/** Without `tail`, this many of the last lines of the log. */
export const DEFAULT_TAIL_LINES = 200;

/** Errors of every route except the probes. */
const COMMON_ERRORS = ["unauthorized", "forbidden_origin", "internal"] as const satisfies ErrorCode[];

/** Errors of every start, whoever asks for it. */
// biome-ignore format: a table of names reads best in rows
const LAUNCH_ERRORS = [
  "unauthorized", "forbidden_origin", "start_cancelled", "port_in_use", "invalid_options", "config_error",
  "import_error", "jupyter_not_found", "permission_denied", "out_of_memory", "crashed", "internal",
  "gateway_unreachable", "gateway_unauthorized", "gateway_invalid", "start_timeout", "out_of_resources",
  "shutting_down", "too_many_connections",
] as const satisfies ErrorCode[];

const ACCEPTED = {
  description: "It is starting (Prefer: respond-async)",
  content: {
    "application/json": {
      schema: MessageAnswer,
      example: { message: "The server is starting; ask for it with GET /api/servers/" },
    },
  },
  headers: {
    Location: { description: "Where to ask for it: `/api/servers/`.", schema: { type: "string" } },
    "Preference-Applied": { description: "`respond-async`.", schema: { type: "string" } },
  },
} satisfies Media;

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

const LastEventId = Type.Object({
  "last-event-id": Type.Optional(
    Type.String({ description: "Continues after the event with this id, if the events are still kept." }),
  ),
});

export const START_ROUTE = withResponseTypes({
  // The type has the names of Jupyter's settings too, which the schema's own type lacks.
  body: Type.Unsafe<StartBody>(StartBody),
  headers: Type.Object({
    prefer: Type.Optional(Type.String({ description: "`respond-async`: the answer is 202, at once." })),
  }),
  detail: {
    summary: "Start JupyterLab",
    description:
      "Answers once JupyterLab has answered an authenticated request, or has failed to start. A wrong value of a Jupyter setting is `invalid_options`. Settings without effect are listed in `warnings`.",
    tags: ["server"],
    responses: documentResponses(
      {
        200: ["It is already running with these options", ServerAnswer],
        201: ["It runs", ServerAnswer],
        202: ACCEPTED,
      },
      ["invalid_json", "already_running", "payload_too_large", "unsupported_media_type", ...LAUNCH_ERRORS],
    ),
  },
});

export const SHOW_ROUTE = withResponseTypes({
  detail: {
    summary: "Show the server",
    tags: ["server"],
    responses: documentResponses(
      { 200: ["It runs", ServerAnswer], 202: ["It is starting or stopping", TransitionAnswer] },
      ["not_running", ...COMMON_ERRORS],
    ),
  },
});

export const STOP_ROUTE = withResponseTypes({
  query: Type.Object({
    "if-idle": Type.Optional(
      Type.String({
        description: "`true`: stop it only if it is idle (see GET /api/servers/activity), and cancel no start.",
      }),
    ),
  }),
  detail: {
    summary: "Stop JupyterLab",
    description:
      "Answers once its kernels, its process and everything that they started are gone. If that is not known in time, the answer is `stop_incomplete`, and a further DELETE tries again. Cancels a start.",
    tags: ["server"],
    responses: documentResponses({ 200: ["Nothing of it is left", MessageAnswer] }, [
      "not_running",
      "busy",
      "invalid_options",
      "stop_incomplete",
      ...COMMON_ERRORS,
    ]),
  },
});

export const RESTART_ROUTE = withResponseTypes({
  detail: {
    summary: "Restart JupyterLab",
    description: "Keeps the options, the port and the token, so that open tabs reconnect and browsers stay logged in.",
    tags: ["server"],
    responses: documentResponses({ 201: ["It runs again", ServerAnswer] }, ["not_running", ...LAUNCH_ERRORS]),
  },
});

export const SESSION_ROUTE = withResponseTypes({
  detail: {
    summary: "Let this browser open JupyterLab",
    description:
      "With PROXY and API_TOKEN: sets a cookie with which the browser that has sent the API token opens JupyterLab at this port, for seven days. The cookie is good for no route of this API. Without API_TOKEN or PROXY no cookie is needed, and none is set.",
    tags: ["server"],
    responses: documentResponses(
      {
        200: {
          description: "It may open JupyterLab",
          content: { "application/json": { schema: SessionAnswer } },
          headers: { "Set-Cookie": { description: "The session.", schema: { type: "string" } } },
        },
      },
      ["too_many_connections", ...COMMON_ERRORS],
    ),
  },
});

export const LIVE_ROUTE = withResponseTypes({
  detail: {
    summary: "Liveness of the control API",
    tags: ["health"],
    security: [],
    responses: documentResponses({ 200: ["It is alive", MessageAnswer] }, []),
  },
});

export const READY_ROUTE = withResponseTypes({
  detail: {
    summary: "Readiness of the control API",
    tags: ["health"],
    security: [],
    responses: documentResponses({ 200: ["It accepts a start", MessageAnswer] }, ["shutting_down"]),
  },
});

export const METRICS_ROUTE = withResponseTypes({
  detail: {
    summary: "Show the metrics",
    description:
      "Prometheus text format: starts by kind and result, durations of starts, of their phases and of stops, automatic restarts, the state, kernels and their connections, busy, idle seconds, the gateway, visits, requests and websockets through the proxy, the standby, resident memory by process, and the version. Asking is not activity.",
    tags: ["observability"],
    responses: documentResponses(
      {
        200: {
          description: "Counted since the program started",
          content: { "text/plain": { schema: Type.String(), example: METRICS_EXAMPLE } },
        },
      },
      COMMON_ERRORS,
    ),
  },
});

export const ACTIVITY_ROUTE = withResponseTypes({
  detail: {
    summary: "Show the activity",
    description:
      "Kernels and terminals, whether one of them or a transfer is working, and how long the server has been idle. Asking is not activity.",
    tags: ["observability"],
    responses: documentResponses({ 200: ["At most two seconds old", Activity] }, COMMON_ERRORS),
  },
});

export const EVENTS_ROUTE = withResponseTypes({
  headers: LastEventId,
  detail: {
    summary: "Follow the lifecycle",
    description:
      "Server-sent events: `state` for each state change, `phase` for the end of each phase of a start, with milliseconds. The first event is the current state. An event `gap` tells how many events after Last-Event-ID were dropped. A comment at least every 8 s.",
    tags: ["observability"],
    responses: documentResponses(
      {
        200: {
          description: "Ends with the program",
          content: { "text/event-stream": { schema: EventStream, example: EVENT_EXAMPLE } },
        },
      },
      ["too_many_connections", ...COMMON_ERRORS],
    ),
  },
});

export const LOGS_ROUTE = withResponseTypes({
  query: Type.Object({
    tail: Type.Optional(
      Type.String({
        description: `A whole number from 0 to ${MAX_LINES}: how many of the last lines. Default: ${DEFAULT_TAIL_LINES}.`,
      }),
    ),
    follow: Type.Optional(Type.String({ description: "`true`: stream the lines that follow." })),
  }),
  headers: LastEventId,
  detail: {
    summary: "Show or follow JupyterLab's output",
    description:
      "The last lines as text, or with `follow=true` as server-sent events: `line`, with consecutive ids, and `gap` with the number of lines that were dropped after Last-Event-ID. Secrets are masked. A comment at least every 8 s.",
    tags: ["observability"],
    responses: documentResponses(
      {
        200: {
          description: "Empty if nothing has been written",
          content: {
            "text/plain": { schema: Type.String(), example: LOG_EXAMPLE },
            "text/event-stream": { schema: EventStream, example: LINE_EXAMPLE },
          },
        },
      },
      ["invalid_options", "too_many_connections", ...COMMON_ERRORS],
    ),
  },
});
