/** One port: every path that is not the control API's own is JupyterLab's, and whoever opens it starts a stopped one. */
import type { Config } from "../config.ts";
import type { Supervisor } from "../jupyter.ts";
import type { Lab } from "../lab/lab.ts";
import type { Pauses } from "../lab/pauses.ts";
import type { Services } from "../lab/start.ts";
import type { Transfers } from "../lab/transfers.ts";
import { ServiceError, stackOf, toProblem } from "../lib/errors.ts";
import type { Log } from "../lib/log.ts";
import { splitList } from "../lib/values.ts";
import { requireKnownHost } from "./auth.ts";
import type { Connections } from "./connections.ts";
import { exchange, IS_DENO, keepOpen } from "./exchange.ts";
import { answerProblem } from "./failed-page.ts";
import { acceptOnDeno, connect, type Relay } from "./relay.ts";
import { CONNECTION_IDLE_S, findUrl, pathOf } from "./request.ts";
import { removeSession } from "./session.ts";
import { acceptsHtml, isVisit, isWork, Visitor, type VisitResult } from "./visits.ts";

/** What a runtime gives a handler beside the request: Bun its server, Deno the address of the client. */
export interface Runtime {
  upgrade?(request: Request, options: { data: Relay; headers: Record<string, string> }): boolean;
  requestIP?(request: Request): { address: string } | null;
  timeout?(request: Request, seconds: number): void;
  remoteAddr?: { hostname: string };
}

/** Sets how many seconds the client's connection may be without traffic, until its request is answered; 0: for ever. */
type Wait = (seconds: number) => void;

/** Jupyter's own limit of a body, by default. */
export const MAX_PROXIED_BODY_BYTES = 512 * 1024 * 1024;
const OWN_PATH = /^\/((page|docs|health|metrics|api\/servers)(\/|$)|$)/;
/** Most requests to the control API. Whatever the host is, these have the same path for every parser. */
const PLAIN_OWN_URL = /^http:\/\/[\w.:-]+\/(api\/servers|health|metrics)(\/[\w-]+)?\/?$/;

/** What the metrics show of the proxy. */
export interface ProxyStats {
  requests: number;
  /** Open now. */
  websockets: number;
  visits: Map<VisitResult, number>;
}

/** Answers the requests that are JupyterLab's: it starts a stopped one for a visit, and logs in whoever may open it. */
export class JupyterProxy {
  readonly stats: ProxyStats = { requests: 0, websockets: 0, visits: new Map() };
  #config: Config;
  #supervisor: Supervisor;
  #log: Log;
  #connections: Connections;
  #pauses: Pauses;
  #transfers: Transfers;

  constructor({ config, log, pauses, transfers }: Services, supervisor: Supervisor, connections: Connections) {
    this.#config = config;
    this.#supervisor = supervisor;
    this.#log = log;
    this.#connections = connections;
    this.#pauses = pauses;
    this.#transfers = transfers;
  }

  /** The request with the path that the control API's routes have; undefined for a path of JupyterLab's. */
  findOwn(request: Request): Request | undefined {
    if (PLAIN_OWN_URL.test(request.url)) return request;
    const url = findUrl(request);
    const path = pathOf({ url });
    const inner = this.#removePrefix(path);
    // The control page's links are relative to a path with a slash at its end.
    if (!OWN_PATH.test(inner) || path === this.#config.prefix) return undefined;
    if (inner === path) return request;
    return new Request(
      url.replace(/^(http:\/\/[^/]*)[^?#]*/, (_, origin) => origin + inner),
      request,
    );
  }

  /** What comes before the control API may have taken the prefix away, or not. */
  #removePrefix(path: string): string {
    const { prefix } = this.#config;
    return prefix && `${path}/`.startsWith(`${prefix}/`) ? path.slice(prefix.length) || "/" : path;
  }

  /** Answers a request to JupyterLab. Undefined: it has become a websocket. */
  async handle(request: Request, runtime: Runtime = {}): Promise<Response | undefined> {
    this.stats.requests += 1;
    // A start may take its time, and so may JupyterLab. The limit is the connection's, which has one again once the answer is sent.
    let isAnswered = false;
    const wait = (seconds: number) => !isAnswered && runtime.timeout?.(request, seconds);
    const limit = (seconds = CONNECTION_IDLE_S) => {
      isAnswered = true;
      runtime.timeout?.(request, seconds);
    };
    wait(0);
    // The browser's connection, and the one to JupyterLab.
    const tooMany = this.#connections.areTooMany(2);
    try {
      if (tooMany && request.headers.has("upgrade"))
        throw new ServiceError(
          "too_many_connections",
          "The control API has too many open connections for a websocket; try again when some have been closed",
        );
      const answer = await this.#relay(request, runtime, wait);
      if (tooMany) answer?.headers.set("connection", "close");
      return answer && keepOpen(answer, limit, this.#transfers);
    } catch (error) {
      limit();
      const problem = toProblem(error, this.#config.debug);
      if (problem.code === "internal")
        this.#log("error", "unexpected error", { method: request.method, stack: stackOf(error) });
      const answer = answerProblem(problem, isVisit(request) && acceptsHtml(request.headers), this.#config);
      if (tooMany) answer.headers.set("connection", "close");
      return answer;
    }
  }

  async #relay(request: Request, runtime: Runtime, wait: Wait): Promise<Response | undefined> {
    const { apiToken, prefix } = this.#config;
    if (apiToken === undefined) requireKnownHost(request, this.#config);
    const url = findUrl(request);
    const path = pathOf({ url });
    const query = /^[^?#]*(\?[^#]*)?/.exec(url)?.[1] ?? "";
    if (prefix && path === prefix) return redirect(308, `${prefix}/${query}`);
    const inner = this.#removePrefix(path);
    const visits = isVisit(request);
    const visitor = new Visitor(request, query, visits, this.#config);
    const askForToken = () => {
      this.#countVisit("unauthorized");
      return redirect(303, `${prefix}/?next=${encodeURIComponent(prefix + inner + query)}`);
    };
    const isKnown = visitor.isTrusted || visitor.hasToken(this.#supervisor.expectedToken);
    const wasRunning = this.#supervisor.state.state === "running";
    if (visits && !isKnown && apiToken !== undefined && !wasRunning) return askForToken();
    const lab = await this.#findLab(visits, isKnown && (visits || isWork(request.method, inner, query)));
    const headers = this.#forward(request, runtime);
    // From then on JupyterLab's own cookie is enough, and its rules about requests of other sites stay in force.
    if (visitor.isTrusted) headers.delete("authorization");
    if (visitor.isTrusted && lab.token) headers.set("authorization", `token ${lab.token}`);
    const address = `${new URL(lab.address).origin}${prefix}${inner}${visitor.mayLogIn ? removeToken(query) : query}`;
    if (request.method === "GET" && headers.get("upgrade")?.toLowerCase() === "websocket")
      return await this.#upgrade(request, address, headers, runtime);
    const answer = await this.#exchange(request, address, headers, wait);
    const toLogin = `${lab.server.base_url}login`;
    const isRefused = answer.status === 302 && answer.headers.get("location")?.startsWith(toLogin);
    if (visits && apiToken !== undefined && !isKnown && isRefused) {
      await answer.body?.cancel();
      return askForToken();
    }
    if (visits) this.#countVisit(wasRunning ? "running" : "started");
    return answer;
  }

  /** The running JupyterLab, or the one that `wakes` starts. Throws `jupyterlab_stopped` or why it could not be started. */
  async #findLab(visits: boolean, wakes: boolean): Promise<Lab> {
    const { state } = this.#supervisor;
    if (state.state === "running") return state.running.lab;
    try {
      if (!wakes || !(this.#config.startOnVisit || state.state === "starting"))
        throw new ServiceError("jupyterlab_stopped", "JupyterLab is not running; the control page starts it");
      return (await this.#supervisor.wake()).lab;
    } catch (error) {
      if (visits) this.#countVisit("failed");
      throw error;
    }
  }

  #countVisit(result: VisitResult): void {
    this.stats.visits.set(result, (this.stats.visits.get(result) ?? 0) + 1);
  }

  /** The request's headers, as JupyterLab is to see them: the host is kept, and the client's address is added. */
  #forward(request: Request, runtime: Runtime): Headers {
    const headers = new Headers(request.headers);
    const host = headers.get("host") ?? "";
    const from = runtime.requestIP?.(request)?.address ?? runtime.remoteAddr?.hostname;
    headers.set("host", host);
    headers.set("x-forwarded-for", [headers.get("x-forwarded-for"), from].filter(Boolean).join(", "));
    if (!headers.has("x-forwarded-proto")) headers.set("x-forwarded-proto", "http");
    if (!headers.has("x-forwarded-host")) headers.set("x-forwarded-host", host);
    const cookies = removeSession(headers.get("cookie") ?? "", this.#config);
    if (cookies) headers.set("cookie", cookies);
    else headers.delete("cookie");
    return headers;
  }

  /** Sends a request on. If it has a body, that is a transfer whose pauses are limited. JupyterLab's time after it is not. */
  async #exchange(request: Request, address: string, headers: Headers, wait: Wait): Promise<Response> {
    const { method, body, signal } = request;
    // Deno would send a body that is watched without its length.
    if (!body || IS_DENO) return await exchange(request, address, headers);
    const transfer = this.#transfers.begin();
    wait(this.#pauses.bodyIdleS);
    const watched = new TransformStream<Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>>({
      transform: (chunk, controller) => {
        wait(this.#pauses.bodyIdleS);
        transfer.movedAt = Date.now();
        controller.enqueue(chunk);
      },
      flush: () => {
        wait(0);
        transfer.end();
      },
    });
    try {
      return await exchange({ method, body: body.pipeThrough(watched), signal }, address, headers);
    } finally {
      transfer.end();
    }
  }

  async #upgrade(request: Request, address: string, headers: Headers, runtime: Runtime): Promise<Response | undefined> {
    const offered = splitList(headers.get("sec-websocket-protocol") ?? "");
    const count = (change: 1 | -1) => {
      this.stats.websockets += change;
    };
    const relay = await connect(address, headers, offered, request.signal, count);
    if (typeof relay === "number") return new Response(null, { status: relay });
    if (IS_DENO) return acceptOnDeno(request, relay);
    // Without this header Bun would choose the first protocol that was offered.
    const chosen = { "sec-websocket-protocol": relay.protocol };
    if (runtime.upgrade?.(request, { data: relay, headers: chosen })) return undefined;
    relay.close(1006, "");
    return new Response(null, { status: 400 });
  }
}

function removeToken(query: string): string {
  return query.replace(/([?&])token=[^&]*(&|$)/, (_, before, after) => (after ? before : "")).replace(/^\?$/, "");
}

function redirect(status: number, location: string): Response {
  return new Response(null, { status, headers: { location, "cache-control": "no-store" } });
}
