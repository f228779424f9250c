/** The session cookie: with an API token it lets a browser open JupyterLab. It is good for no route of the control API. */
import { createHmac } from "node:crypto";
import type { Config } from "../config.ts";
import { findCookieSuffix } from "../lab/launch-spec.ts";
import { equalsSecret } from "../lib/redact.ts";
import { isSecure } from "./request.ts";

const LIFETIME_S = 7 * 24 * 3600;

/**
 * The `Set-Cookie` header of a new session; undefined where none is needed. Nothing is stored: the cookie is its expiry,
 * signed with the API token, so another token ends every session.
 */
export function issueSession(request: Request, config: Config): string | undefined {
  const { apiToken, proxy, prefix, embedOrigins, publicUrl } = config;
  if (!proxy || apiToken === undefined) return undefined;
  const expiry = Math.floor(Date.now() / 1000) + LIFETIME_S;
  const secure = isSecure(request, publicUrl);
  // A frame in a page of another site gets cookies of this kind only.
  const site = secure && embedOrigins.length > 0 ? "None; Partitioned" : "Lax";
  const attributes = `Path=${prefix}/; Max-Age=${LIFETIME_S}; HttpOnly; SameSite=${site}${secure ? "; Secure" : ""}`;
  return `${nameOf(config)}=${expiry}.${sign(expiry, apiToken)}; ${attributes}`;
}

/** Whether a request brings a valid session. */
export function hasSession({ headers }: Request, config: Config): boolean {
  const cookies = headers.get("cookie");
  if (cookies === null || config.apiToken === undefined) return false;
  const { apiToken } = config;
  // A browser keeps one of each kind (`Partitioned` or not), and the other one can be of an earlier API token.
  return [...cookies.matchAll(patternOf(config))].some(
    ([, expiry, signature = ""]) =>
      Number(expiry) * 1000 > Date.now() && equalsSecret(signature, sign(Number(expiry), apiToken)),
  );
}

/** A `Cookie` header without the session cookies, which JupyterLab must not get. */
export function removeSession(cookies: string, config: Config): string {
  return cookies.replace(patternOf(config), "").replace(/^;\s*/, "");
}

function nameOf(config: Config): string {
  return `jupyter-session-${findCookieSuffix(config)}`;
}

const patterns = new WeakMap<Config, RegExp>();

function patternOf(config: Config): RegExp {
  const kept = patterns.get(config);
  if (kept) return kept;
  const pattern = new RegExp(`(?:^|;\\s*)${nameOf(config)}=(\\d{1,12})\\.([0-9a-f]{64})(?=;|$)`, "g");
  patterns.set(config, pattern);
  return pattern;
}

function sign(expiry: number, apiToken: string): string {
  return createHmac("sha256", apiToken).update(`jupyter-server session ${expiry}`).digest("hex");
}
