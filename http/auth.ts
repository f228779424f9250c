/** Who may use the control API: rules for Origin, Host and the API token. */
import { isIP } from "node:net";
import type { Config } from "../config.ts";
import { ServiceError } from "../lib/errors.ts";
import { equalsSecret } from "../lib/redact.ts";
import { hostOf, parseHost, pathOf } from "./request.ts";

/** Static pages without secrets, which anybody may link to. They ask for the token themselves. */
const PUBLIC_PAGES = /^\/(page\/[a-z]+\.(css|js)|docs(\/|\/swagger-ui\.css|\/swagger-ui-bundle\.js)?)?$/;
const PROBES = /^\/health\//;

/** Checks that a request may use the API. Throws `forbidden_origin` or `unauthorized`. */
export function authorize(request: Request, config: Config): void {
  const pathname = pathOf(request);
  if (PROBES.test(pathname)) return;
  const isPage = ["GET", "HEAD"].includes(request.method) && PUBLIC_PAGES.test(pathname);
  requireOrigin(request, config, isPage);
  if (config.apiToken === undefined || isPage) return;
  const given = readBearer(request);
  if (given === undefined || !equalsSecret(given, config.apiToken)) {
    const reason = given === undefined ? "An API token is required" : "The API token is invalid";
    throw new ServiceError("unauthorized", `${reason}: send the header Authorization: Bearer <API_TOKEN>`);
  }
}

/** The token in the header `Authorization`. */
export function readBearer({ headers }: Request): string | undefined {
  return /^(?:bearer|token) +(\S+) *$/i.exec(headers.get("authorization") ?? "")?.[1];
}

/**
 * Without an API token, the host is what tells a page of a rebound name from a program: browsers send `Sec-Fetch-Site` to
 * trustworthy addresses only, and no `Origin` with a GET of the same origin. Names without a dot are those of a container
 * network: nobody can register one.
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

/** Browsers send the origin of a request. Programs without a browser send neither header, and pass. */
function requireOrigin(request: Request, config: Config, isPage: boolean): void {
  const site = request.headers.get("sec-fetch-site");
  const origin = request.headers.get("origin");
  if (site === null && origin === null) return;
  const isSameOrigin = site === null ? isSameHost(origin, request) : site === "same-origin" || site === "none";
  if (!isSameOrigin && !isPage) {
    throw new ServiceError("forbidden_origin", "A page of another origin may not use the control API");
  }
  const host = hostOf(request).toLowerCase();
  if (config.apiToken === undefined && !isKnownHost(host, config)) {
    throw new ServiceError(
      "forbidden_origin",
      "A browser may use the control API by an IP address, localhost, the host of PUBLIC_URL or one of ALLOWED_HOSTS only",
    );
  }
}

function isSameHost(origin: string | null, request: Request): boolean {
  return origin !== null && URL.canParse(origin) && new URL(origin).host === new URL(request.url).host;
}

function isKnownHost(host: string, { publicUrl, allowedHosts }: Config): boolean {
  if (isIP(host.replace(/^\[|\]$/g, "")) !== 0 || host === "localhost") return true;
  return allowedHosts.includes(host) || (publicUrl !== undefined && new URL(publicUrl).hostname === host);
}
