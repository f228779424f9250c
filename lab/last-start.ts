/** The last start that succeeded: the next one is likely to have its options, and open tabs still have its token. */
import type { Connection } from "./connection.ts";
import type { Context } from "./context.ts";
import { requireInside } from "./folders.ts";
import { parseOptions, type StartOptions } from "./options.ts";
import { planStart, type Start } from "./state.ts";

/** What is remembered of it. */
export class LastStart {
  #config: Context["config"];
  #last: { options: StartOptions; token: string } | undefined;

  constructor({ config }: Context) {
    this.#config = config;
  }

  remember(options: StartOptions, token: string): void {
    this.#last = { options, token };
  }

  /** Remembers the start that an earlier control API has recorded, unless this one's configuration forbids to repeat it. */
  adopt({ token, supervisor: { options } }: Connection): void {
    if ((this.#config.jupyterToken ?? token) !== token) return;
    try {
      requireInside(this.#config, options);
      this.remember(options, token);
    } catch {
      // NOTEBOOK_DIR is another one now.
    }
  }

  /** The token that the next start by a visit gives; undefined: a random one. */
  get token(): string | undefined {
    return this.#last?.token ?? this.#config.jupyterToken;
  }

  /** A start by a visit: as the last one, at first with the defaults. */
  plan(): Start {
    const { options = parseOptions({}, this.#config), token } = this.#last ?? {};
    return { ...planStart(options, token), byVisit: true };
  }
}
