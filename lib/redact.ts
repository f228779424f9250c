/** Redacts secrets from text, and compares secrets in constant time. */
import { createHash, timingSafeEqual } from "node:crypto";
import { parseJson } from "./values.ts";

/** Replaces a secret in text. */
export const MASK = "***";

/** A secret shorter than this is masked only as a whole word, so that a token such as `a` leaves logs readable. */
const WHOLE_WORD_BELOW_CHARS = 8;

/** Names whose values are secrets: of environment variables, Jupyter settings and query parameters. */
const SECRET_NAME = /gateway(_|client\.)headers|token|secret|passw|_pwd|credential|api_?key|private_?key|access_?key/i;

/** Query parameters, headers and environment entries whose value is a secret even if it is not known. */
const SECRET_PAIR =
  /((?:[?&]|\b)(?:token|access_token|password)=|\bauthorization['"]?\s*[:=]\s*['"]?(?:bearer|token|basic)\s+|["'](?:JUPYTER_TOKEN|JUPYTER_GATEWAY_AUTH_TOKEN|API_TOKEN)["']\s*:\s*["'])[^\s&"'\\,;)}<>]+/gi;

/** Whether the value of something with this name has to be masked. */
export function isSecretName(name: string): boolean {
  return SECRET_NAME.test(name);
}

/** The values in an environment that have a secret's name. A short one may be an everyday word and is left out. */
export function findSecretValues(env: Record<string, string>): string[] {
  return Object.entries(env)
    .filter(([name]) => isSecretName(name))
    .flatMap(([, value]) => listStrings(value))
    .filter((value) => value.length >= WHOLE_WORD_BELOW_CHARS);
}

/**
 * The strings that a secret's value consists of: itself, and what a list, an object or their JSON contains. A text of several
 * lines, such as a private key, consists of its lines as well, because logs are masked line by line.
 */
export function listStrings(value: unknown): string[] {
  if (typeof value === "object" && value !== null) return Object.values(value).flatMap(listStrings);
  if (typeof value !== "string") return [];
  const json = /^\s*[[{]/.test(value) ? parseJson(value) : undefined;
  if (json !== undefined) return [value, ...listStrings(json)];
  const lines = value.split("\n").map((line) => line.trim());
  return lines.length > 1 ? [value, ...lines.filter(Boolean)] : [value];
}

/** A secret in every form in which Python, JSON and URLs write it, also one within another. */
export function listForms(secret: string): string[] {
  const quoted = [...writeQuoted(secret), ...writeQuoted(secret).flatMap(writeQuoted)];
  return [...new Set([secret, ...quoted, ...writeUrl(secret)])];
}

/** As a string in Python (`repr`, `ascii`, also of its bytes) and in JSON: without the quotes around it, whichever they are. */
function writeQuoted(text: string): string[] {
  const names: Record<string, string> = { "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t" };
  const python = text.replace(/[\\\n\r\t]|(?! )[\p{C}\p{Z}]/gu, (letter) => names[letter] ?? escapePython(letter));
  const json = JSON.stringify(text).slice(1, -1);
  const bytes = Buffer.from(text).toString("latin1");
  const ofBytes = bytes.replace(/\\|[^ -~]/g, (letter) => names[letter] ?? escapePython(letter));
  const plain = [python, python.replace(/[^\0-\x7f]/gu, escapePython), ofBytes];
  return [...plain, ...plain.map((form) => form.replaceAll("'", "\\'")), json, json.replace(/[^\0-\x7f]/g, escapeJson)];
}

function escapePython(letter: string): string {
  const code = letter.codePointAt(0) ?? 0;
  const [prefix, digits]: [string, number] = code < 0x100 ? ["x", 2] : code < 0x10000 ? ["u", 4] : ["U", 8];
  return `\\${prefix}${code.toString(16).padStart(digits, "0")}`;
}

function escapeJson(unit: string): string {
  return `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`;
}

/** As a part of a URL: by `encodeURIComponent`, and by Python's `quote` and `quote_plus`. */
function writeUrl(text: string): string[] {
  const encoded = encodeURIComponent(text.toWellFormed());
  const strict = encoded.replace(/[!'()*]/g, (letter) => `%${letter.charCodeAt(0).toString(16).toUpperCase()}`);
  const forms = [encoded, strict, strict.replaceAll("%2F", "/")].flatMap((form) => [form, form.replaceAll("%20", "+")]);
  return forms.flatMap((form) => [form, form.replace(/%[0-9A-F]{2}/g, (code) => code.toLowerCase())]);
}

/** The secrets that the program knows. `mask` removes all of them from a text. */
export class Secrets {
  /** How often each secret was added: two things can have the same secret at a time. */
  #counts = new Map<string, number>();
  /** Every form of every secret, the longest first; and what matches them. */
  #forms: string[] = [];
  #pattern: RegExp | undefined;

  /** Adds secrets; empty and missing ones are ignored. */
  add(...values: (string | undefined)[]): void {
    for (const value of values) if (value) this.#counts.set(value, (this.#counts.get(value) ?? 0) + 1);
    this.#compile();
  }

  /** Removes secrets that nothing can print any more. One that was added twice has to be removed twice. */
  remove(...values: (string | undefined)[]): void {
    for (const value of values) {
      const count = (value && this.#counts.get(value)) || 0;
      if (value && count > 1) this.#counts.set(value, count - 1);
      else if (value) this.#counts.delete(value);
    }
    this.#compile();
  }

  #compile(): void {
    this.#forms = [...new Set(this.values().flatMap(listForms))].sort((a, b) => b.length - a.length);
    const alternatives = this.#forms.map((form) => {
      const literal = form.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
      return form.length < WHOLE_WORD_BELOW_CHARS ? `(?<![A-Za-z0-9_])${literal}(?![A-Za-z0-9_])` : literal;
    });
    this.#pattern = alternatives.length > 0 ? new RegExp(alternatives.join("|"), "g") : undefined;
  }

  /** Every secret that is known now. */
  values(): string[] {
    return [...this.#counts.keys()];
  }

  /** The text with every known secret, and every value in the place of a token, replaced by `***`. */
  mask(text: string): string {
    const known = this.#pattern ? text.replace(this.#pattern, MASK) : text;
    return known.replace(SECRET_PAIR, `$1${MASK}`);
  }

  /** As `mask`, for a text that goes on: where its end can be the beginning of a secret, that is replaced as well. */
  maskUnfinished(text: string): string {
    const length = this.#forms.reduce((most, form) => Math.max(most, countOverlap(text, form)), 0);
    if (length === 0) return this.mask(text);
    const start = text.length - length;
    const whole = this.#pattern ? [...text.matchAll(this.#pattern)] : [];
    // A secret that is complete can overlap the one at the end.
    const overlapping = whole.find(({ index, 0: found }) => index < start && index + found.length > start);
    return this.mask(text.slice(0, overlapping?.index ?? start)) + MASK;
  }
}

/** How many characters at the end of a text are the beginning, and not the whole, of a secret. */
function countOverlap(text: string, form: string): number {
  let count = Math.min(text.length, form.length - 1);
  while (count > 0 && !form.startsWith(text.slice(-count))) count -= 1;
  return count;
}

/** Compares two strings in constant time. */
export function equalsSecret(given: string, expected: string): boolean {
  const digest = (text: string) => createHash("sha256").update(text).digest();
  return timingSafeEqual(digest(given), digest(expected));
}
