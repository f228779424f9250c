/** The HTTP skin: each route checks its request, calls the supervisor once and maps the result. */
import { Type } from "@sinclair/typebox";
import { Elysia } from "elysia";
import type { Config } from "./config.ts";
import { admit, hostOf, locate, pathOf, readFlag, readJson } from "./http/auth.ts";
import { watch } from "./http/observe.ts";
import { openapi } from "./http/openapi.ts";
import { pages } from "./http/pages.ts";
import {
  ACCEPTED_ANSWER,
  COMMON_ERRORS,
  describeServer,
  describeTransition,
  documentAnswers,
  MessageAnswer,
  ServerAnswer,
  TransitionAnswer,
} from "./http/schemas.ts";
import { Supervisor } from "./jupyter.ts";
import { Journal } from "./lab/history.ts";
import type { Lab } from "./lab/lab.ts";
import { Output } from "./lab/log-file.ts";
import { parseOptions, StartBody } from "./lab/options.ts";
import { Standby } from "./lab/standby.ts";
import { notRunning, type Running } from "./lab/state.ts";
import { ServiceError, stackOf, toProblem } from "./lib/errors.ts";
import { createLog } from "./lib/log.ts";
import { findSecretValues, Secrets } from "./lib/redact.ts";

/** Where an app writes: its own log line by line, and JupyterLab's output line by line. */
export interface Sinks {
  writeLog: (line: string) => void;
  writeOutput: (line: string) => void;
}

// biome-ignore format: a table of names reads best in rows
const START_ERRORS = [
  "invalid_json", "unauthorized", "forbidden_origin", "already_running", "start_cancelled", "port_in_use",
  "payload_too_large", "unsupported_media_type", "invalid_options", "config_error", "import_error",
  "jupyter_not_found", "permission_denied", "out_of_memory", "crashed", "internal", "gateway_unreachable",
  "gateway_unauthorized", "gateway_invalid", "start_timeout", "shutting_down",
] as const;

/**
 * Builds the whole program from a configuration: nothing is opened, listened on, read or started before a request asks
 * for it. `fetch` of the app is the handler.
 */
export function createApp(config: Config, sinks: Sinks) {
  const secrets = new Secrets();
  secrets.add(config.apiToken, config.gatewayToken, ...findSecretValues(config.jupyterEnv));
  const log = createLog(config, secrets, sinks.writeLog);
  const output = new Output(config.logFile, secrets, sinks.writeOutput);
  const journal = new Journal(secrets);
  const shared = { config, secrets, output, log, journal, labs: new Set<Lab>() };
  const context = { ...shared, standby: new Standby(shared) };
  const supervisor = new Supervisor(context);
  /** The last answer: it is asked for again and again, and differs only where the server, its gateway or the host does. */
  let shown:
    | { running: Running; gateway: Running["gateway"]; host: string; answer: ReturnType<typeof describeServer> }
    | undefined;
  const show = (running: Running, request: Request) => {
    const host = hostOf(request);
    const { gateway } = running;
    if (shown?.running !== running || shown.gateway !== gateway || shown.host !== host)
      shown = { running, gateway, host, answer: describeServer(running, host, config.publicUrl) };
    return shown.answer;
  };

  // The framework takes a host of less than four letters for a part of the path, unless it is told not to.
  const app = new Elysia({ normalize: false, handler: { standardHostname: false } })
    .wrap((handle) => (request: Request) => handle(locate(request)))
    .onRequest(({ request, set }) => {
      set.headers["cache-control"] = "no-store";
      set.headers["x-content-type-options"] = "nosniff";
      admit(request, config);
    })
    .onError(({ code, error, request, set }) => {
      const problem = toProblem(explain(code, error, request), config.debug);
      if (problem.code === "internal")
        log("error", "unexpected error", {
          method: request.method,
          stack: stackOf(error),
        });
      if (problem.code === "unauthorized") set.headers["www-authenticate"] = 'Bearer realm="jupyter-server"';
      if (problem.code === "method_not_allowed") set.headers.allow = methodsOf(request).join(", ");
      const headers = { "content-type": "application/problem+json" };
      return new Response(JSON.stringify(problem), { status: problem.status, headers });
    })
    .post(
      "/api/servers/",
      async ({ body, request, set, status }) => {
        const result = supervisor.start(parseOptions(body, config));
        if (!(result instanceof Promise)) return status(200, show(result, request));
        if (prefersAsync(request)) {
          result.catch(() => {});
          set.headers.location = "/api/servers/";
          set.headers["preference-applied"] = "respond-async";
          return status(202, { message: "The server is starting; ask for it with GET /api/servers/" });
        }
        return status(201, show(await result, request));
      },
      {
        // The name after the reader is never reached: it tells the document that a body is JSON and nothing else.
        parse: [({ request }) => readJson(request), "json"],
        body: StartBody,
        headers: Type.Object({
          prefer: Type.Optional(Type.String({ description: "`respond-async`: the answer is 202, at once." })),
        }),
        detail: {
          summary: "Start JupyterLab",
          description: "Answers once JupyterLab itself has answered an authenticated request, or failed to.",
          tags: ["server"],
          responses: documentAnswers(
            {
              200: ["It runs with these options already", ServerAnswer],
              201: ["It runs", ServerAnswer],
              202: ACCEPTED_ANSWER,
            },
            [...START_ERRORS],
          ),
        },
      },
    )
    .get(
      "/api/servers/",
      ({ request, status }) => {
        const { state } = supervisor;
        switch (state.state) {
          case "running":
            return status(200, show(state.running, request));
          case "starting":
          case "stopping":
            return status(202, describeTransition(state));
          case "stopped":
          case "failed":
            throw notRunning(state);
        }
      },
      {
        detail: {
          summary: "Show the server",
          tags: ["server"],
          responses: documentAnswers(
            { 200: ["It runs", ServerAnswer], 202: ["It starts or stops", TransitionAnswer] },
            ["not_running", ...COMMON_ERRORS],
          ),
        },
      },
    )
    .delete(
      "/api/servers/",
      async ({ query }) => {
        await (readFlag("if-idle", query["if-idle"]) ? supervisor.stopIfIdle() : supervisor.stop());
        return { message: "Server shutdown was successful" };
      },
      {
        query: Type.Object({
          "if-idle": Type.Optional(
            Type.String({ description: "True or false: whether only where it is idle (GET /api/servers/activity)." }),
          ),
        }),
        detail: {
          summary: "Stop JupyterLab",
          description: "Answers once its kernels, its process and all that they started are gone; cancels a start.",
          tags: ["server"],
          responses: documentAnswers({ 200: ["Nothing is left of it", MessageAnswer] }, [
            "not_running",
            "busy",
            "invalid_options",
            ...COMMON_ERRORS,
          ]),
        },
      },
    )
    .post(
      "/api/servers/restart",
      async ({ request, status }) => status(201, show(await supervisor.restart(), request)),
      {
        parse: "none",
        detail: {
          summary: "Restart JupyterLab",
          description: "With the same options, port and token, so that open tabs connect again.",
          tags: ["server"],
          responses: documentAnswers({ 201: ["It runs again", ServerAnswer] }, ["not_running", ...START_ERRORS]),
        },
      },
    )
    .use(watch({ supervisor, context }))
    .get("/health/live", () => ({ message: "alive" }), {
      detail: {
        summary: "Liveness of the control API",
        tags: ["health"],
        security: [],
        responses: documentAnswers({ 200: ["It answers", MessageAnswer] }, []),
      },
    })
    .get(
      "/health/ready",
      () => {
        if (!supervisor.accepting) throw new ServiceError("shutting_down", "The control API is shutting down");
        return { message: "ready" };
      },
      {
        detail: {
          summary: "Readiness of the control API",
          tags: ["health"],
          security: [],
          responses: documentAnswers({ 200: ["A start would be accepted", MessageAnswer] }, ["shutting_down"]),
        },
      },
    );
  app.use(pages());
  app.use(openapi(app));

  const methodsOf = (request: Request): string[] => {
    const path = trimSlash(pathOf(request));
    return [...new Set(app.routes.filter((route) => trimSlash(route.path) === path).map((route) => route.method))];
  };
  /** The framework's own errors in the words of this API. */
  const explain = (code: string | number, error: unknown, request: Request): unknown => {
    if (code === "VALIDATION") {
      const { type, value } = error as { type?: string; value?: unknown };
      if (type === "body") return explainBody(value, config) ?? error;
      return new ServiceError("invalid_options", `The ${type} is not as GET /docs describes it`);
    }
    if (code === "PARSE") return error instanceof Error && error.cause instanceof ServiceError ? error.cause : error;
    if (code !== "NOT_FOUND") return error;
    const methods = methodsOf(request);
    if (methods.length > 0) return new ServiceError("method_not_allowed", `This path takes ${methods.join(", ")} only`);
    return new ServiceError("not_found", "There is nothing at this path; GET /docs lists what there is");
  };
  return { app, supervisor, log, output };
}

export type App = ReturnType<typeof createApp>["app"];

function explainBody(value: unknown, config: Config): unknown {
  try {
    parseOptions(value, config);
    return undefined;
  } catch (error) {
    return error;
  }
}

function prefersAsync(request: Request): boolean {
  const preferences = (request.headers.get("prefer") ?? "").toLowerCase().split(/[,;]/);
  return preferences.some((preference) => preference.trim() === "respond-async");
}

function trimSlash(path: string): string {
  return path.replace(/\/$/, "") || "/";
}
