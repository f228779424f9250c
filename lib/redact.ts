/** Redacts secrets from text, and compares secrets in constant time. */
import { createHash, timingSafeEqual } from "node:crypto";

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
  return Object.entries(env).flatMap(([name, value]) =>
    isSecretName(name) && value.length >= WHOLE_WORD_BELOW_CHARS ? [value] : [],
  );
}

/** The secrets that the program knows. `mask` removes all of them from a text. */
export class Secrets {
  /** How often each secret was added: two things can have the same secret at a time. */
  #counts = new Map<string, number>();
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
    const forms = this.values().flatMap((value) => [
      value,
      encodeURIComponent(value.toWellFormed()),
      JSON.stringify(value).slice(1, -1),
    ]);
    const alternatives = [...new Set(forms)]
      .sort((a, b) => b.length - a.length)
      .map((form) => {
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
}

/** Compares two strings in constant time. */
export function equalsSecret(given: string, expected: string): boolean {
  const digest = (text: string) => createHash("sha256").update(text).digest();
  return timingSafeEqual(digest(given), digest(expected));
}
