/** The last start that succeeded: the next one is likely to have its options, and open tabs still have its token. */
import { describeFailure } from "../lib/errors.ts";
import type { Connection } from "./connection.ts";
import type { Context } from "./context.ts";
import { parseOptions, type StartOptions } from "./options.ts";
import { planStart, type Start } from "./state.ts";

/** What is remembered of it. */
export class LastStart {
  #context: Context;
  #last: { options: StartOptions; token: string | undefined } | undefined;

  constructor(context: Context) {
    this.#context = context;
  }

  /** Remembers a start that has succeeded. */
  remember(options: StartOptions, token: string): void {
    this.#last = { options, token };
  }

  /**
   * Remembers what an earlier control API was asked for, with the defaults of this one's configuration. A token that was
   * neither asked for nor a default stays. What this configuration refuses is forgotten.
   */
  restore({ token, supervisor }: Connection): void {
    const { config, log } = this.#context;
    try {
      const options = parseOptions(supervisor.options.body, config);
      const random = supervisor.options.token === undefined ? token : undefined;
      this.#last = { options, token: options.token ?? random };
    } catch (error) {
      log("warn", "last start forgotten", { reason: describeFailure(error).message });
    }
  }

  /** The token that the next start by a visit gives; undefined: a random one. */
  get token(): string | undefined {
    return this.#last ? this.#last.token : this.#context.config.jupyterToken;
  }

  /** A start by a visit: as the last one, at first with the defaults. */
  plan(): Start {
    const { options = parseOptions({}, this.#context.config), token } = this.#last ?? {};
    return { ...planStart(options, token), byVisit: true };
  }
}
