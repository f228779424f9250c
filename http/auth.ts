/** Who may use the control API: rules for Origin, Host and the API token. */
import { isIP } from "node:net";
import type { Config } from "../config.ts";
import { ServiceError } from "../lib/errors.ts";
import { equalsSecret } from "../lib/redact.ts";
import { parseHost, pathOf } from "./request.ts";

/** Static pages without secrets, which anybody may link to. They ask for the token themselves. */
const PUBLIC_PAGES = /^\/(page\/[a-z]+\.(css|js)|docs(\/|\/swagger-ui\.css|\/swagger-ui-bundle\.js)?)?$/;
const PROBES = /^\/health\//;

/** Checks that a request may use the API. Throws `forbidden_origin` or `unauthorized`. */
export function authorize(request: Request, config: Config): void {
  if (PROBES.test(pathOf(request))) return;
  if (config.apiToken === undefined) requireKnownHost(request, config);
  const isPublic = isPage(request);
  if (!isPublic && !isOwnOrigin(request))
    throw new ServiceError("forbidden_origin", "A page of another origin may not use the control API");
  if (config.apiToken === undefined || isPublic) return;
  const given = readBearer(request);
  if (given === undefined || !equalsSecret(given, config.apiToken)) {
    const reason = given === undefined ? "An API token is required" : "The API token is invalid";
    throw new ServiceError("unauthorized", `${reason}: send the header Authorization: Bearer <API_TOKEN>`);
  }
}

/** Whether a request is for one of the pages or their files. */
export function isPage(request: Request): boolean {
  return ["GET", "HEAD"].includes(request.method) && PUBLIC_PAGES.test(pathOf(request));
}

/** The token in the header `Authorization`. */
export function readBearer({ headers }: Request): string | undefined {
  return /^(?:bearer|token) +(\S+) *$/i.exec(headers.get("authorization") ?? "")?.[1];
}

/**
 * Without an API token, only the host distinguishes a program from a page that uses DNS rebinding: browsers send
 * `Sec-Fetch-Site` to trustworthy addresses only, and no `Origin` with a GET of the same origin. Names without a dot are
 * those of a container network: nobody can register one.
 */
export function requireKnownHost(request: Request, { publicUrl, allowedHosts }: Config): void {
  const host = parseHost(request)?.hostname.replace(/\.$/, "");
  const known = [...allowedHosts, publicUrl && new URL(publicUrl).hostname.replace(/\.$/, "")];
  if (host && (!host.includes(".") || isIP(host.replace(/^\[|\]$/g, "")) !== 0 || known.includes(host))) return;
  throw new ServiceError(
    "forbidden_origin",
    "Without API_TOKEN the Host of a request must be an IP address, localhost, a name without a dot, the host of PUBLIC_URL or one of ALLOWED_HOSTS",
  );
}

/** Whether it comes from a page of this origin, or from no page: a browser sends one of these two headers, a program neither. */
export function isOwnOrigin(request: Request): boolean {
  const site = request.headers.get("sec-fetch-site");
  const origin = request.headers.get("origin");
  if (site === null && origin === null) return true;
  return site === null ? isSameHost(origin, request) : site === "same-origin" || site === "none";
}

function isSameHost(origin: string | null, request: Request): boolean {
  const host = parseHost(request)?.host;
  return origin !== null && host !== undefined && URL.parse(origin)?.host === host;
}
