/** Reading a request: its URL in one form, its query flags, and its JSON body within bounds. */
import type { Config } from "../config.ts";
import type { ServerInfo } from "../lab/launch-spec.ts";
import { ServiceError } from "../lib/errors.ts";
import { locateJsonError } from "../lib/json.ts";
import { parseJson, quoteKey } from "../lib/values.ts";

const MAX_BODY_BYTES = 64 * 1024;
/** An option is at most a list or an object of strings. What is nested deeper costs time and memory in errors alone. */
const MAX_BODY_DEPTH = 16;
const BODY_TIMEOUT_MS = 10_000;
/** A connection without traffic is closed after this, except during an event stream, a start or a stop. */
export const CONNECTION_IDLE_S = 10;

/** A name or address with an optional port. Characters that URL parsers read as something else are not part of a host. */
const HOST = /^([\w.-]+|\[[\da-f:.]+\])(:\d{0,5})?$/i;
/** A name that nobody has (RFC 2606). */
const NO_HOST = "host.invalid";
/** URLs that every parser reads in the same way, which is nearly all of them. */
const PLAIN_URL = /^http:\/\/(localhost|127\.0\.0\.1)(:[1-5]?\d{1,4})?(\/[\w-]+)*\/?$/;

/** Returns the request with a normalized URL, so that authorization and routing see the same path. */
export function normalizeUrl(request: Request): Request {
  const url = findUrl(request);
  return url === request.url ? request : new Request(url, request);
}

/**
 * The URL of a request's `Host` header and its target's path. Runtimes put the header into the URL as it was sent, slashes
 * included, and differ for targets with a host of their own. A request without a valid host gets one that is never known.
 * Never throws.
 */
export function findUrl(request: Request): string {
  const { url } = request;
  if (PLAIN_URL.test(url)) return url;
  const target = url.replace(/^[a-z][a-z\d+.-]*:\/\/[^/?#\\]*/i, "").replace(/#.*/s, "");
  return new URL(`http://${parseHost(request)?.host ?? NO_HOST}/${target.replace(/^\//, "")}`).href;
}

/** The path of a request with a normalized URL, or of the URL. */
export function pathOf({ url }: { url: string }): string {
  return /^http:\/\/[^/]*([^?#]*)/.exec(url)?.[1] ?? "";
}

/** The `Host` header as a URL, else the URL's own host, as for a request of this process; undefined if it is none. */
export function parseHost(request: Request): URL | undefined {
  const host = request.headers.get("host") ?? /^http:\/\/([^/?#]*)/.exec(request.url)?.[1] ?? "";
  return HOST.test(host) ? (URL.parse(`http://${host}`) ?? undefined) : undefined;
}

/** Whether a browser reaches this program over https, which ends in front of it. */
export function isSecure(request: Request, publicUrl: string | undefined): boolean {
  const forwarded = request.headers.get("x-forwarded-proto");
  return forwarded === null ? /^https:/i.test(publicUrl ?? "") : /^\s*https\s*(,|$)/i.test(forwarded);
}

/** Where a client reaches JupyterLab: what its base URL is appended to. */
export function findOrigin(request: Request, { secure, port }: ServerInfo, { publicUrl, proxy }: Config): string {
  // With a proxy the path of PUBLIC_URL is a part of the base URL.
  if (publicUrl !== undefined) return proxy ? new URL(publicUrl).origin : publicUrl;
  const { host, hostname } = parseHost(request) ?? { host: "localhost", hostname: "localhost" };
  if (!proxy) return `${secure ? "https" : "http"}://${hostname}:${port}`;
  return `${isSecure(request, publicUrl) ? "https" : "http"}://${host}`;
}

/** Whether a client asks not to wait for a start (`Prefer: respond-async`, RFC 7240). */
export function prefersAsync(request: Request): boolean {
  const preferences = (request.headers.get("prefer") ?? "").toLowerCase().split(/[,;]/);
  return preferences.some((preference) => preference.trim() === "respond-async");
}

/** A query parameter; undefined if it is missing. Throws `invalid_options` if it is there more than once. */
export function readParameter(request: Request, name: string): string | undefined {
  const [text, ...others] = new URL(request.url).searchParams.getAll(name);
  if (others.length === 0) return text;
  throw new ServiceError("invalid_options", `"${name}" must be given once`);
}

/** A query parameter that is `true` or `false`; false if it is missing. Throws `invalid_options` for anything else. */
export function readFlag(request: Request, name: string): boolean {
  const text = readParameter(request, name);
  if (text === undefined || text === "true" || text === "false") return text === "true";
  throw new ServiceError("invalid_options", `"${name}" must be true or false`);
}

/** `invalid_options` for a query with parameters that are not among the allowed ones. Values are not repeated. */
export function unknownParameters(query: object, allowed: string[]): ServiceError {
  const unknown = Object.keys(query).filter((name) => !allowed.includes(name));
  const problems = unknown.map((name) => `${quoteKey(name)} is not a parameter of this query`);
  return new ServiceError("invalid_options", `${problems.join("; ")}; the parameters are ${allowed.join(", ")}`);
}

/**
 * Reads a JSON body; an empty body is an empty object. Throws `unsupported_media_type`, `payload_too_large`, `invalid_json`
 * or, for one that is nested too deep, `invalid_options`.
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
  const encoding = request.headers.get("content-encoding");
  if (encoding !== null && encoding.toLowerCase() !== "identity") {
    throw new ServiceError(
      "unsupported_media_type",
      "A body is read without Content-Encoding only: send it uncompressed",
    );
  }
  const text = decode(bytes);
  const value = parseJson(text);
  if (isDeep(value)) {
    throw new ServiceError(
      "invalid_options",
      `The body must be nested at most ${MAX_BODY_DEPTH} levels deep, and it is deeper`,
    );
  }
  if (value !== undefined) return value;
  const { line, column } = locateJsonError(text);
  throw new ServiceError("invalid_json", `The body must be JSON, and it is not (line ${line}, column ${column})`);
}

function isDeep(value: unknown, levels = MAX_BODY_DEPTH): boolean {
  if (typeof value !== "object" || value === null) return false;
  return Object.values(value).some((part) => levels === 0 || isDeep(part, levels - 1));
}

function decode(bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new ServiceError("invalid_json", "The body must be JSON in UTF-8, and it is not UTF-8");
  }
}

async function readBody(request: Request): Promise<Uint8Array> {
  if (!request.body) return new Uint8Array();
  const reader = request.body.getReader();
  const chunks: Uint8Array[] = [];
  let size = 0;
  const timeout = Promise.withResolvers<never>();
  const timer = setTimeout(
    () =>
      timeout.reject(
        new ServiceError("invalid_json", `The body must arrive within ${BODY_TIMEOUT_MS / 1000} s, and it did not`),
      ),
    BODY_TIMEOUT_MS,
  );
  try {
    for (;;) {
      const { done, value } = await Promise.race([reader.read().catch(reportBroken), timeout.promise]);
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

function reportBroken(cause: unknown): never {
  throw new ServiceError(
    "invalid_json",
    "The body must arrive whole, and the connection ended before it did",
    {},
    cause,
  );
}

function tooLarge(): ServiceError {
  return new ServiceError(
    "payload_too_large",
    `A body must be at most ${MAX_BODY_BYTES / 1024} KiB, and this one is larger`,
  );
}
