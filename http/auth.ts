/** Who may enter, and with what: origin, host, token, and the size and type of a body. */
import { isIP } from "node:net";
import type { Config } from "../config.ts";
import { ServiceError } from "../lib/errors.ts";
import { equalsSecret } from "../lib/redact.ts";

/** A body may be this large, and may take this long to arrive. */
const MAX_BODY_BYTES = 64 * 1024;
const BODY_TIMEOUT_MS = 10_000;

/** Pages that anybody may link to, and that hold nothing to protect: they ask for the token themselves. */
const OPEN_PAGES = /^\/(page\/[a-z]+\.(css|js)|docs(\/|\/swagger-ui\.css|\/swagger-ui-bundle\.js)?)?$/;
const OPEN_TO_PROBES = /^\/health\//;
/** Most addresses are read in one way only, and need not be parsed to know it. */
const PLAIN_ADDRESS = /^http:\/\/[a-z0-9.-]+(:\d+)?(\/[\w-]+)*\/?$/;

/** Lets a request in or throws `forbidden_origin` or `unauthorized`. */
export function admit(request: Request, config: Config): void {
  const pathname = pathOf(request);
  if (OPEN_TO_PROBES.test(pathname)) return;
  const isPage = ["GET", "HEAD"].includes(request.method) && OPEN_PAGES.test(pathname);
  requireOrigin(request, config, isPage);
  if (config.apiToken === undefined || isPage) return;
  const [, given] = /^(?:bearer|token) +(\S+) *$/i.exec(request.headers.get("authorization") ?? "") ?? [];
  if (given === undefined || !equalsSecret(given, config.apiToken)) {
    const reason = given === undefined ? "wants a token" : "does not know this token";
    throw new ServiceError(
      "unauthorized",
      `The control API ${reason}: send the header Authorization: Bearer <API_TOKEN>`,
    );
  }
}

/**
 * The request under an address that everybody finds the same path in: what is let in by its path is then routed by that
 * path. `Host` is in the address as it was sent, with slashes where somebody put them there. An address that names no
 * host, or none that there can be, is one of this host.
 */
export function locate(request: Request): Request {
  const { url } = request;
  if (PLAIN_ADDRESS.test(url)) return request;
  const address = URL.parse(url) ?? new URL(`http://localhost/${url.replace(/^(http:\/\/[^/]*)?\/*/, "")}`);
  if (address.protocol !== "http:") address.protocol = "http:";
  return address.href === url ? request : new Request(address.href, request);
}

/** The path of a located request. */
export function pathOf({ url }: Request): string {
  return /^http:\/\/[^/]*([^?#]*)/.exec(url)?.[1] ?? "";
}

/** The name a request was sent to, without its port; IPv6 addresses in brackets. */
export function hostOf(request: Request): string {
  return new URL(request.url).hostname;
}

/** Browsers say where a request comes from; programs without a browser say nothing, and pass. */
function requireOrigin(request: Request, config: Config, isPage: boolean): void {
  const site = request.headers.get("sec-fetch-site");
  const origin = request.headers.get("origin");
  if (site === null && origin === null) return;
  const sameSite = site === null ? isSameHost(origin, request) : site === "same-origin" || site === "none";
  if (!sameSite && !isPage) {
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

/** A query's parameter that is true or false; left out it is false. Throws `invalid_options`: no other word may pass for one. */
export function readFlag(name: string, text: string | undefined): boolean {
  if (text === undefined || text === "true" || text === "false") return text === "true";
  throw new ServiceError("invalid_options", `"${name}" must be true or false`);
}

/**
 * Reads a JSON body; a missing one is an empty object. Throws `unsupported_media_type`, `payload_too_large` or
 * `invalid_json`.
 */
export async function readJson(request: Request): Promise<unknown> {
  const declared = request.headers.get("content-length");
  if (declared !== null && Number(declared) > MAX_BODY_BYTES) throw tooLarge();
  const bytes = await readBody(request);
  if (bytes.length === 0) return {};
  const type = (request.headers.get("content-type") ?? "").split(";")[0]?.trim().toLowerCase();
  if (type !== "application/json") {
    throw new ServiceError(
      "unsupported_media_type",
      "A body is read as application/json only: send the header Content-Type: application/json",
    );
  }
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    throw new ServiceError("invalid_json", "The body must be JSON in UTF-8, and it is not");
  }
}

async function readBody(request: Request): Promise<Uint8Array> {
  if (!request.body) return new Uint8Array();
  const reader = request.body.getReader();
  const chunks: Uint8Array[] = [];
  let size = 0;
  const slow = Promise.withResolvers<never>();
  const timer = setTimeout(
    () =>
      slow.reject(
        new ServiceError("invalid_json", `The body must arrive within ${BODY_TIMEOUT_MS / 1000} s, and it did not`),
      ),
    BODY_TIMEOUT_MS,
  );
  try {
    for (;;) {
      const { done, value } = await Promise.race([reader.read(), slow.promise]);
      if (done) return Buffer.concat(chunks);
      size += value.byteLength;
      if (size > MAX_BODY_BYTES) throw tooLarge();
      chunks.push(value);
    }
  } catch (error) {
    reader.cancel().catch(() => {});
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

function tooLarge(): ServiceError {
  return new ServiceError(
    "payload_too_large",
    `A body must be at most ${MAX_BODY_BYTES / 1024} KiB, and this one is larger`,
  );
}
