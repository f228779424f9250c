/** Who may use the control API: rules for Origin, Host and the API token. */
import { isIP } from "node:net";
import type { Config } from "../config.ts";
import { ServiceError } from "../lib/errors.ts";
import { equalsSecret } from "../lib/redact.ts";
import { hostOf, pathOf } from "./request.ts";

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
  const [, given] = /^(?:bearer|token) +(\S+) *$/i.exec(request.headers.get("authorization") ?? "") ?? [];
  if (given === undefined || !equalsSecret(given, config.apiToken)) {
    const reason = given === undefined ? "An API token is required" : "The API token is invalid";
    throw new ServiceError("unauthorized", `${reason}: send the header Authorization: Bearer <API_TOKEN>`);
  }
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
