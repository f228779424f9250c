/** Who opens JupyterLab through the proxy: which requests are visits, who is logged in, and what starts a stopped JupyterLab. */
import type { Config } from "../config.ts";
import { equalsSecret } from "../lib/redact.ts";
import { isOwnOrigin, readBearer } from "./auth.ts";
import { hasSession } from "./session.ts";

/** How visits ended: JupyterLab ran, was started, could not be, or the browser was sent to the control page for a token. */
export const VISIT_RESULTS = ["running", "started", "failed", "unauthorized"] as const;
export type VisitResult = (typeof VISIT_RESULTS)[number];

/** Paths of JupyterLab whose writes are somebody's doing. A tab writes elsewhere by itself: its layout, every ten seconds. */
const WRITTEN_PATH = /\/api\/(contents|sessions|kernels|terminals)(\/|$)/;
const WRITE_METHODS = ["POST", "PUT", "PATCH", "DELETE"];

/** Whether a person opens a page. Browsers send `Sec-Fetch-Mode` over https and to localhost only. */
export function isVisit({ method, headers }: Request): boolean {
  if (method !== "GET" || headers.has("upgrade")) return false;
  const mode = headers.get("sec-fetch-mode");
  return mode === null ? acceptsHtml(headers) : mode === "navigate";
}

/** Whether whoever sends the request can show a page. */
export function acceptsHtml(headers: Headers): boolean {
  return /\btext\/html\b/.test(headers.get("accept") ?? "");
}

/**
 * Whether a tab does what somebody wants, as opposed to what it does by itself: it starts a kernel, or it saves a file.
 * A save begins with a question about the file.
 */
export function isWork(method: string, path: string, query: string): boolean {
  if (method === "GET") return /\/api\/contents\//.test(path) && /[?&]content=0(&|$)/.test(query);
  return WRITE_METHODS.includes(method) && WRITTEN_PATH.test(path);
}

/** What a request shows of who sends it. */
export class Visitor {
  /** Whether it is a visit of a browser that is to be logged in to JupyterLab. */
  readonly mayLogIn: boolean;
  /** Whether it is a program with the API token. */
  #hasApiToken: boolean;
  #request: Request;
  #query: string;
  #config: Config;

  constructor(request: Request, query: string, visits: boolean, config: Config) {
    this.#request = request;
    this.#query = query;
    this.#config = config;
    const given = config.apiToken === undefined ? undefined : readBearer(request);
    this.#hasApiToken = given !== undefined && equalsSecret(given, config.apiToken ?? "");
    this.mayLogIn = visits && this.#isLetIn() && (config.apiToken !== undefined || !isFramed(request));
  }

  /** Whether it gets JupyterLab's token from here, and so needs none of its own. */
  get isTrusted(): boolean {
    return this.mayLogIn || this.#hasApiToken;
  }

  /** Whether it is let in without any token. Most requests of a page are not asked: a session's signature takes time. */
  #isLetIn(): boolean {
    return this.#config.apiToken === undefined || hasSession(this.#request, this.#config);
  }

  /** Whether it brings JupyterLab's token. Where JupyterLab has none, a tab of this origin has nothing to bring. */
  hasToken(token: string | undefined): boolean {
    if (token === "") return isOwnOrigin(this.#request) && this.#isLetIn();
    if (token === undefined) return false;
    const given = new URLSearchParams(this.#query).get("token") ?? readBearer(this.#request);
    return given !== undefined && equalsSecret(given, token);
  }
}

/** A page of another origin could show JupyterLab in a frame, and get its clicks (clickjacking). */
function isFramed({ headers }: Request): boolean {
  const destination = headers.get("sec-fetch-dest");
  return destination !== null && destination !== "document";
}
