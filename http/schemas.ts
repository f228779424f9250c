/** The API's answers: their schemas, and the functions that fill them from the lifecycle. */
import { type Static, Type } from "@sinclair/typebox";
import { GatewayStatus, Nullable, OneOf } from "../lab/schemas.ts";
import type { Running, State } from "../lab/state.ts";
import { STATUS_BY_CODE } from "../lib/errors.ts";

const FAILURE = {
  exit_code: Nullable(Type.Integer(), "Exit code; null if a signal ended it, or if it never ran."),
  signal: Nullable(Type.String(), "Name of the signal that ended it; null if there was none."),
  log_tail: Type.Array(Type.String(), { description: "The last 50 lines of JupyterLab's log, with secrets masked." }),
  traceback: Nullable(Type.String(), "The Python traceback; null if there is none."),
};

/** Examples in the OpenAPI document. */
const EXAMPLES = {
  server: {
    state: "running",
    url: "http://localhost:8888/",
    lab_url: "http://localhost:8888/lab?token=66c2cd27",
    hostname: "127.0.0.1",
    port: 8888,
    secure: false,
    base_url: "/",
    token: "66c2cd27",
    notebook_dir: "/home/me/notebooks",
    password: false,
    pid: 18096,
    version: "2.21.1",
    gateway_url: null,
    gateway: null,
    started_at: "2026-11-24T12:34:56.789Z",
    start_ms: { handover: 0.5, import: 2.1, configure: 9.6, bind: 42.5, answer: 5.5, total: 60.2 },
    start_kind: "standby",
    restarts: 0,
    last_exit: null,
    options: {},
    warnings: [],
  },
  transition: { state: "starting", message: "The server is starting", restarts: 0, last_exit: null, options: {} },
  message: { message: "Server shutdown was successful" },
} as const;

const LastExitAnswer = Type.Object(
  {
    at: Type.String({ format: "date-time" }),
    code: Nullable(Type.String(), "Error code; null after a clean shutdown."),
    message: Type.String(),
    ...FAILURE,
  },
  { description: "How JupyterLab last ended unasked." },
);

/** A running server: `GET /api/servers/`. */
export const ServerAnswer = Type.Object(
  {
    state: Type.Literal("running"),
    url: Type.String({ description: "JupyterLab's URL, including the base URL." }),
    lab_url: Type.String({ description: "Ready to click: the first page, with the token." }),
    hostname: Type.String({ description: "The address JupyterLab listens on." }),
    port: Type.Integer(),
    secure: Type.Boolean({ description: "Whether JupyterLab itself uses https." }),
    base_url: Type.String(),
    token: Type.String(),
    notebook_dir: Type.String(),
    password: Type.Boolean(),
    pid: Type.Integer(),
    version: Type.String({ description: "Version of Jupyter Server." }),
    gateway_url: Nullable(Type.String()),
    gateway: Nullable(GatewayStatus),
    started_at: Type.String({ format: "date-time" }),
    start_ms: Type.Record(Type.String(), Type.Number(), {
      description: "Duration of the start in milliseconds, by phase and in total.",
    }),
    start_kind: OneOf(["armed", "standby", "cold"]),
    restarts: Type.Integer({ description: "Automatic restarts since the last requested start." }),
    last_exit: Nullable(LastExitAnswer),
    options: Type.Record(Type.String(), Type.Unknown(), { description: "The requested options, with secrets masked." }),
    warnings: Type.Array(Type.String(), {
      description:
        "One sentence for each Jupyter setting without effect: unknown to the installed Jupyter, or overridden by the control API. Also one if PYTHON is a wrapper that stays alive.",
    }),
  },
  { examples: [EXAMPLES.server] },
);

/** A server that is starting or stopping: status 202. */
export const TransitionAnswer = Type.Object(
  {
    state: OneOf(["starting", "stopping"]),
    message: Type.String(),
    restarts: Type.Integer(),
    last_exit: Nullable(LastExitAnswer),
    options: Nullable(Type.Record(Type.String(), Type.Unknown())),
  },
  { examples: [EXAMPLES.transition] },
);

export const MessageAnswer = Type.Object({ message: Type.String() }, { examples: [EXAMPLES.message] });

export const SessionAnswer = Type.Object(
  {
    message: Type.String(),
    had_session: Type.Boolean({ description: "Whether the request brought a valid session already" }),
  },
  { examples: [{ message: "This browser may open JupyterLab", had_session: false }] },
);

/** Server-sent events. A typed client reads them one by one, each with its fields. */
export const EventStream = Type.Unsafe<AsyncGenerator<{ id?: number; event?: string; data?: unknown; retry?: number }>>(
  Type.String(),
);

/** Every error answer: RFC 9457, `application/problem+json`. */
export const ProblemAnswer = Type.Object({
  type: Type.String(),
  title: Type.String(),
  status: Type.Integer(),
  detail: Type.String(),
  code: OneOf(Object.keys(STATUS_BY_CODE)),
  message: Type.String({ description: "The same as detail." }),
  state: Type.Optional(Type.String()),
  last_exit: Type.Optional(LastExitAnswer),
  ...Object.fromEntries(Object.entries(FAILURE).map(([key, schema]) => [key, Type.Optional(schema)])),
});

/** A running server as the client reaches it, at `origin` and below its base URL. */
export function describeServer(running: Running, origin: string): Static<typeof ServerAnswer> {
  const { lab, gateway, startedAt, restarts, lastExit } = running;
  const { hostname, port, secure, base_url, root_dir, password, pid, version } = lab.server;
  const url = origin + base_url;
  const [, page = "", fragment = ""] = /^\/([^#]*)(.*)$/.exec(lab.options.defaultUrl) ?? [];
  const query = lab.token ? `${page.includes("?") ? "&" : "?"}token=${encodeURIComponent(lab.token)}` : "";
  return {
    state: "running",
    url,
    lab_url: url + page + query + fragment,
    hostname,
    port,
    secure,
    base_url,
    token: lab.token,
    notebook_dir: root_dir,
    password,
    pid,
    version,
    gateway_url: lab.options.gatewayUrl ?? null,
    gateway,
    started_at: startedAt,
    start_ms: lab.times,
    start_kind: lab.kind,
    restarts,
    last_exit: lastExit,
    options: lab.options.asked,
    warnings: lab.warnings,
  };
}

/** A start or a stop in progress. */
export function describeTransition(
  state: Extract<State, { state: "starting" | "stopping" }>,
): Static<typeof TransitionAnswer> {
  if (state.state === "starting") {
    const { restarts, lastExit, options } = state.start;
    return {
      state: "starting",
      message: "The server is starting",
      restarts,
      last_exit: lastExit,
      options: options.asked,
    };
  }
  return {
    state: "stopping",
    message: "The server is stopping",
    restarts: 0,
    last_exit: state.lastExit,
    options: null,
  };
}
