/** What earlier stops have left: the JupyterLabs that were told to end and are not known to be gone. */
import { ServiceError } from "../lib/errors.ts";
import type { Context, LiveLab } from "./context.ts";

/** The live labs that a stop has failed to end. */
export class Remains {
  #context: Context;

  constructor(context: Context) {
    this.#context = context;
  }

  get isEmpty(): boolean {
    return this.#list().length === 0;
  }

  /** Tries again to end all of them, within the time of a stop. */
  async end(): Promise<void> {
    await Promise.all(this.#list().map((lab) => lab.clear()));
  }

  /** The error of a stop that has left something; undefined if nothing is left. */
  explain(): ServiceError | undefined {
    const remains = this.#list()[0]?.remains;
    if (remains === undefined) return undefined;
    const message = `JupyterLab was told to end, but ${remains}; a further stop tries again`;
    return new ServiceError("stop_incomplete", message);
  }

  #list(): LiveLab[] {
    return [...this.#context.labs].filter((lab) => lab.remains);
  }
}
