/** The routes: each one validates its request, calls the supervisor once and maps the result. */
import { Elysia, type ValidationError } from "elysia";
import type { Config } from "./config.ts";
import { authorize, isPage } from "./http/auth.ts";
import { Connections } from "./http/connections.ts";
import { answerProblem } from "./http/failed-page.ts";
import { observe } from "./http/observe.ts";
import { openapi } from "./http/openapi.ts";
import { pages } from "./http/pages.ts";
import { JupyterProxy } from "./http/proxy.ts";
import {
  findOrigin,
  normalizeUrl,
  pathOf,
  prefersAsync,
  readFlag,
  readJson,
  unknownParameters,
} from "./http/request.ts";
import {
  LIVE_ROUTE,
  READY_ROUTE,
  RESTART_ROUTE,
  SESSION_ROUTE,
  SHOW_ROUTE,
  START_ROUTE,
  STOP_ROUTE,
} from "./http/route-docs.ts";
import { describeServer, describeTransition } from "./http/schemas.ts";
import { hasSession, issueSession } from "./http/session.ts";
import { acceptsHtml } from "./http/visits.ts";
import { Supervisor } from "./jupyter.ts";
import type { LiveLab } from "./lab/context.ts";
import { History } from "./lab/history.ts";
import { LogFile } from "./lab/log-file.ts";
import { parseOptions } from "./lab/options.ts";
import { PAUSES, type Pauses } from "./lab/pauses.ts";
import { Standby } from "./lab/standby.ts";
import { notRunning, type Running, requireOpen } from "./lab/state.ts";
import { Transfers } from "./lab/transfers.ts";
import { ServiceError, stackOf, toProblem } from "./lib/errors.ts";
import { createLog } from "./lib/log.ts";
import { findSecretValues, Secrets } from "./lib/redact.ts";

/** Where an app writes: lines of its own log, and lines of JupyterLab's output. */
interface Sinks {
  writeLog: (line: string) => void;
  writeOutput: (line: string) => void;
}

/** Headers of every answer. A page has a policy of its own. */
const HEADERS = {
  "cache-control": "no-store",
  "x-content-type-options": "nosniff",
  "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-resource-policy": "same-origin",
};

/** Builds the program from a configuration. Nothing is opened, read or started before a request asks for it. */
export function createApp(config: Config, sinks: Sinks, pauses: Pauses = PAUSES) {
  const secrets = new Secrets();
  secrets.add(config.apiToken, config.jupyterToken, config.gatewayToken, ...findSecretValues(config.jupyterEnv));
  const log = createLog(config, secrets, sinks.writeLog);
  const logFile = new LogFile(config.logFile, secrets, sinks.writeOutput);
  const context = { config, secrets, log, logFile, labs: new Set<LiveLab>(), pauses };
  const transfers = new Transfers(pauses.bodyIdleS * 1000);
  const services = { ...context, standby: new Standby(context), history: new History(secrets), transfers };
  const supervisor = new Supervisor(services);
  const connections = new Connections();
  const proxy = config.proxy ? new JupyterProxy(services, supervisor, connections) : undefined;
  const show = (running: Running, request: Request) =>
    describeServer(running, findOrigin(request, running.lab.server, config));

  // Without `standardHostname: false` the framework takes a host of less than four letters for a part of the path.
  const app = new Elysia({ normalize: false, handler: { standardHostname: false } })
    .wrap((handle) => (request: Request) => handle(normalizeUrl(request)))
    .onRequest(({ request, set }) => {
      Object.assign(set.headers, HEADERS);
      authorize(request, config);
      if (!connections.areTooMany()) return;
      set.headers.connection = "close";
      if (request.method !== "POST") return;
      throw new ServiceError(
        "too_many_connections",
        "The control API has too many open connections for a start; try again when some have been closed",
      );
    })
    // `unknown`: a typed client would have a `Response` among the answers of each route.
    .onError(({ code, error, request, set }): unknown => {
      const problem = toProblem(translateError(code, error, request), config.debug);
      if (problem.code === "internal")
        log("error", "unexpected error", { method: request.method, stack: stackOf(error) });
      // A client that is refused must not hold a connection.
      if (problem.code === "unauthorized" || problem.code === "forbidden_origin") set.headers.connection = "close";
      if (problem.code === "unauthorized") set.headers["www-authenticate"] = 'Bearer realm="jupyter-server"';
      if (problem.code === "method_not_allowed") set.headers.allow = methodsOf(request).join(", ");
      // A person has opened a page by a name that is not allowed.
      const asPage = problem.code === "forbidden_origin" && isPage(request) && acceptsHtml(request.headers);
      if (asPage) return answerProblem(problem, true, config);
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
          set.headers.location = `${config.prefix}/api/servers/`;
          set.headers["preference-applied"] = "respond-async";
          return status(202, { message: "The server is starting; ask for it with GET /api/servers/" });
        }
        return status(201, show(await result, request));
      },
      // The second parser never runs; it tells the OpenAPI document that a body is JSON and nothing else.
      { parse: [({ request }) => readJson(request), "json"], ...START_ROUTE },
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
      SHOW_ROUTE,
    )
    .delete(
      "/api/servers/",
      async ({ request }) => {
        await (readFlag(request, "if-idle") ? supervisor.stopIfIdle() : supervisor.stop());
        return { message: "Server shutdown was successful" };
      },
      STOP_ROUTE,
    )
    .post(
      "/api/servers/restart",
      async ({ request, status }) => status(201, show(await supervisor.restart(), request)),
      { parse: "none", ...RESTART_ROUTE },
    )
    .post(
      "/api/servers/session",
      ({ request, set }) => {
        const cookie = issueSession(request, config);
        if (cookie) set.headers["set-cookie"] = cookie;
        const message = cookie ? "This browser may open JupyterLab" : "No session is needed";
        return { message, had_session: hasSession(request, config) };
      },
      { parse: "none", ...SESSION_ROUTE },
    )
    .use(observe(services, supervisor, connections.maxStreams, proxy?.stats))
    .get("/health/live", () => ({ message: "alive" }), LIVE_ROUTE)
    .get(
      "/health/ready",
      () => {
        requireOpen(supervisor.state);
        return { message: "ready" };
      },
      READY_ROUTE,
    );
  app.use(pages(config.prefix));
  app.use(openapi(app, config.prefix));

  const methodsOf = (request: Request): string[] => {
    const path = trimSlash(pathOf(request));
    const methods = app.routes.filter((route) => trimSlash(route.path) === path).map((route) => route.method);
    // Where there is a GET there is a HEAD.
    return [...new Set(methods.flatMap((method) => (method === "GET" ? ["GET", "HEAD"] : method)))];
  };
  /** Turns the framework's errors into those of this API. */
  const translateError = (code: string | number, error: unknown, request: Request): unknown => {
    if (code === "VALIDATION") {
      const { type, value, valueError } = error as ValidationError;
      if (type === "body") return findBodyError(value, config) ?? error;
      // The schemas of queries let every text pass: each route reads its own, and names what is wrong.
      if (type === "query") return unknownParameters(value as object, Object.keys(valueError?.schema.properties ?? {}));
    }
    if (code === "PARSE") return error instanceof Error && error.cause instanceof ServiceError ? error.cause : error;
    if (code !== "NOT_FOUND") return error;
    const methods = methodsOf(request);
    if (methods.length > 0)
      return new ServiceError("method_not_allowed", `This path supports ${methods.join(", ")} only`);
    return new ServiceError("not_found", "There is nothing at this path; GET /docs lists the routes");
  };
  return { app, proxy, supervisor, standby: services.standby, log, logFile };
}

export type App = ReturnType<typeof createApp>["app"];

function findBodyError(body: unknown, config: Config): unknown {
  try {
    parseOptions(body, config);
    return undefined;
  } catch (error) {
    return error;
  }
}

function trimSlash(path: string): string {
  return path.replace(/\/$/, "") || "/";
}
