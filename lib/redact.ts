/** Keeps secrets out of everything that is written, and compares them without telling how far they match. */
import { createHash, timingSafeEqual } from "node:crypto";

/** What stands in every text where a secret was. */
export const MASK = "***";

/** A literal shorter than this is masked only as a word of its own, so that a token such as `a` leaves logs readable. */
const WHOLE_WORD_BELOW_CHARS = 8;

/** Names whose values are secrets wherever they appear: environment variables, Jupyter settings, query parameters. */
const SECRET_NAME = /gateway(_|client\.)headers|token|secret|passw|_pwd|credential|api_?key|private_?key|access_?key/i;

/** Query parameters, headers and environment entries that carry a secret, whatever its value. */
const SECRET_PAIR =
  /((?:[?&]|\b)(?:token|access_token|password)=|\bauthorization['"]?\s*[:=]\s*['"]?(?:bearer|token|basic)\s+|["'](?:JUPYTER_TOKEN|JUPYTER_GATEWAY_AUTH_TOKEN|API_TOKEN)["']\s*:\s*["'])[^\s&"'\\,;)}<>]+/gi;

/** Whether the value of something called `name` has to be masked. */
export function isSecretName(name: string): boolean {
  return SECRET_NAME.test(name);
}

/** What an environment holds under a secret's name; a short value can be an everyday word, and is none. */
export function findSecretValues(env: Record<string, string>): string[] {
  return Object.entries(env).flatMap(([name, value]) =>
    isSecretName(name) && value.length >= WHOLE_WORD_BELOW_CHARS ? [value] : [],
  );
}

/** The secrets known to the program. Adding one is enough: every text that passes through `mask` is rid of it. */
export class Secrets {
  /** How often each one was added: the same value can be a secret of two things at a time. */
  #counts = new Map<string, number>();
  #pattern: RegExp | undefined;

  /** Remembers secrets; empty and missing ones are passed over. */
  add(...values: (string | undefined)[]): void {
    for (const value of values) if (value) this.#counts.set(value, (this.#counts.get(value) ?? 0) + 1);
    this.#compile();
  }

  /** Forgets secrets that nothing can print any more, each as often as it was added. */
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

  /** Every secret known now. */
  values(): string[] {
    return [...this.#counts.keys()];
  }

  /** The text with every known secret, and every value that stands where tokens stand, replaced by `***`. */
  mask(text: string): string {
    const known = this.#pattern ? text.replace(this.#pattern, MASK) : text;
    return known.replace(SECRET_PAIR, `$1${MASK}`);
  }
}

/** Compares two strings in a time that depends on neither. */
export function equalsSecret(given: string, expected: string): boolean {
  const digest = (text: string) => createHash("sha256").update(text).digest();
  return timingSafeEqual(digest(given), digest(expected));
}
