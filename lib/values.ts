/** Parsers for values from outside: URLs, origins, host names, lists and plain text. */

/** Whether a text has control characters, or lone surrogates, which UTF-8 does not have. */
export function hasControls(text: string): boolean {
  return /[\p{Cc}\p{Cs}]/u.test(text);
}

/** Whether Jupyter takes a text letter for letter as a token: it strips blanks at the ends of what a URL contains. */
export function isToken(text: string): boolean {
  return !hasControls(text) && text === text.trim();
}

/** An absolute http(s) URL without user and password; undefined if the text is not one. */
function parseHttpUrl(text: string): URL | undefined {
  if (!/^https?:\/\/[^\s/?#]/i.test(text) || /[\s\\]/.test(text) || hasControls(text) || !URL.canParse(text))
    return undefined;
  const url = new URL(text);
  return url.username || url.password ? undefined : url;
}

/**
 * An http(s) URL that others are appended to: without query, fragment and trailing slashes, and with its origin in the
 * canonical form, because Jupyter Server refuses a `Host` with a capital letter. Undefined if it is not one.
 */
export function parseBaseUrl(text: string): string | undefined {
  const url = parseHttpUrl(text);
  return url && !url.search && !url.hash
    ? text.replace(/^https?:\/\/[^/]*/i, url.origin).replace(/\/+$/, "")
    : undefined;
}

/** A web origin in its canonical form (`https://example.org:8443`); undefined if the text is not one. */
export function parseOrigin(text: string): string | undefined {
  const url = parseHttpUrl(text);
  // A URL's host may contain characters with a meaning in a Content-Security-Policy: `*`, `;`, `'`.
  if (!/^https?:\/\/[\w.:[\]-]+$/i.test(text)) return undefined;
  return url && url.pathname === "/" && !text.endsWith("/") && !url.search && !url.hash ? url.origin : undefined;
}

/**
 * Whether a path, without the slashes at its ends, has only letters, digits and `._~@:,=%-` in its parts, and none that is
 * empty, `.` or `..`.
 */
export function isPlainPath(path: string): boolean {
  return /^[A-Za-z0-9._~@:,=%/-]*$/.test(path) && !path.split("/").some((part) => /^(\.|%2e){0,2}$/i.test(part));
}

/** Whether a text is a host name or an IP address, without a port. */
export function isHost(text: string): boolean {
  return (
    /^[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?$/.test(text) ||
    (text.includes(":") && URL.canParse(`http://[${text}]/`))
  );
}

/** Whether only this machine can reach an address. */
export function isLoopback(host: string): boolean {
  return host === "localhost" || host === "::1" || /^127(\.\d{1,3}){3}$/.test(host);
}

/** Splits a comma-separated list; blanks around the entries and empty entries do not count. */
export function splitList(text: string): string[] {
  return text
    .split(",")
    .map((entry) => entry.trim())
    .filter(Boolean);
}

/** Hides what a URL can contain beside its address, also in a malformed one: a password, and a token in the query. */
export function hideCredentials(text: string): string {
  return text.replace(/(^\w+:\/\/|^).*@/s, "$1***@").replace(/([?#]).*/s, "$1***");
}

/** The number of single-character edits between two texts (Levenshtein distance). */
export function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 0; i < a.length; i += 1) {
    const next = [i + 1];
    for (let j = 0; j < b.length; j += 1)
      next.push(Math.min((row[j] ?? 0) + (a[i] === b[j] ? 0 : 1), (row[j + 1] ?? 0) + 1, (next[j] ?? 0) + 1));
    row = next;
  }
  return row.at(-1) ?? 0;
}

/** Parses JSON; undefined if the text is not JSON. */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** A key as an error message names it. Unusual characters are not repeated. */
export function quoteKey(key: string): string {
  return /^[\w.-]{1,80}$/.test(key) ? `"${key}"` : "A key with unusual characters";
}
