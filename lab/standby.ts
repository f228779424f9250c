/** The standby: the warm processes that `STANDBY` asks for, from the launch of the program to its end. */
import { describeExit, messageOf } from "../lib/errors.ts";
import { type Exit, settlesWithin } from "../lib/spawn.ts";
import { loadClient } from "./client.ts";
import type { Context } from "./context.ts";
import type { LaunchedProcess } from "./launch-spec.ts";
import { parseOptions, type StartOptions } from "./options.ts";
import { type Fork, makeToken, requireFresh, StaleError, Zygote } from "./zygote.ts";

/** The options and the token that an armed process is initialised with. */
interface Arming {
  options: StartOptions;
  token: string;
  /** Whether the token is random and unused: only then may it serve a start that names no token. */
  fresh: boolean;
}

interface Armed extends Fork {
  arming: Arming;
  ready: boolean;
}

const RETRY_PAUSE_MS = 1000;
const MAX_RETRY_PAUSE_MS = 60_000;

/** Keeps a zygote and, if armed, one JupyterLab that waits. A start never depends on them: without them it is slower. */
export class Standby {
  #context: Context;
  #zygote: Zygote | undefined;
  #armed: Armed | undefined;
  /** What an armed process is to be initialised with; undefined: none is wanted. */
  #wanted: Arming | undefined;
  /** The options of the last start. The zygote has the environment that they ask for. */
  #options: StartOptions | undefined;
  #busy = false;
  /** Settles when the step under way has ended. */
  #step: Promise<void> = Promise.resolve();
  /** Settles when every process that was told to end is gone. */
  #ends: Promise<void> = Promise.resolve();
  #closed = false;
  #failures = 0;
  #lastWarning = "";
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** Starts nothing before `keep`. */
  constructor(context: Context) {
    this.#context = context;
  }

  /**
   * Keeps a zygote from now on and, if armed, a process with the options and the token of the last start, at first with
   * the defaults. Without `token` it gets a random one.
   */
  keep(last?: StartOptions, token?: string): void {
    const { config } = this.#context;
    if (config.standby === "off") return;
    const options = last ?? this.#options ?? parseOptions({}, config);
    if (!options.safeMode) this.#options = options;
    const named = token ?? options.token;
    const wanted = { options, token: named ?? makeToken(), fresh: named === undefined };
    this.#wanted = config.standby === "armed" && !options.safeMode ? wanted : undefined;
    if (this.#armed && !this.#isWanted(this.#armed.arming)) this.#endArmed(this.#armed);
    this.#fill();
  }

  /**
   * Ends every process. Resolves when nothing is left of them, their folders included, or after `timeoutMs`. A JupyterLab
   * that runs does not depend on them.
   */
  async close(timeoutMs: number): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    if (this.#armed) this.#endArmed(this.#armed);
    // A step that was under way ends what it has made.
    const ended = Promise.all([this.#endZygote(), this.#step]).then(() => this.#ends);
    await settlesWithin(ended, timeoutMs);
  }

  /** The processes that are ready. */
  pids(): number[] {
    return [
      ...(this.#zygote?.isReady ? [this.#zygote.pid] : []),
      ...(this.#armed?.ready ? [this.#armed.child.pid] : []),
    ];
  }

  /**
   * A process that becomes JupyterLab with these options: an armed one that fits, or a fork of the zygote; undefined if
   * there is none. `token` is the one that the start must have; undefined: any that is not in use. Rejects with a
   * `StaleError` if the process can't be used, and after `signal`.
   */
  async acquire(
    kind: "armed" | "standby",
    options: StartOptions,
    token: string | undefined,
    signal: AbortSignal,
  ): Promise<LaunchedProcess | undefined> {
    clearTimeout(this.#timer);
    if (kind === "armed") return this.#release(options, token);
    const zygote = this.#zygote;
    // Safe mode changes what is read at import.
    if (!zygote || options.safeMode) return undefined;
    const chosen = token ?? makeToken();
    const { child, reports, runtimeDir, secret } = await zygote.fork(options, chosen, false, signal);
    this.#passLog(zygote);
    return { kind, child, reports, runtimeDir, token: chosen, secret };
  }

  /** Ends the zygote because a start could not use it. The next `keep` makes another one, for the same options. */
  async renew(options: StartOptions): Promise<void> {
    this.#options = options;
    await this.#endZygote();
  }

  #release(options: StartOptions, token: string | undefined): LaunchedProcess | undefined {
    const armed = this.#armed;
    this.#wanted = undefined;
    if (!armed) return undefined;
    if (!armed.ready || !serves(armed.arming, options, token)) {
      // The start needs the whole processor.
      if (!armed.ready) this.#endArmed(armed);
      return undefined;
    }
    this.#armed = undefined;
    if (this.#zygote) this.#passLog(this.#zygote);
    armed.release();
    const { child, reports, runtimeDir, arming, secret } = armed;
    return { kind: "armed", child, reports, runtimeDir, token: arming.token, secret };
  }

  /** What was written before the start, by imports or by a configuration that was armed, belongs to its log. */
  #passLog(zygote: Zygote): void {
    const written = zygote.takeLog();
    if (written) this.#context.logFile.append(written);
  }

  #isWanted(arming: Arming): boolean {
    const wanted = this.#wanted;
    return wanted !== undefined && serves(arming, wanted.options, wanted.fresh ? undefined : wanted.token);
  }

  /** Starts what is missing, one process at a time: two at once would delay each other. */
  #fill(): void {
    clearTimeout(this.#timer);
    if (this.#closed || this.#busy) return;
    if (!this.#zygote) this.#step = this.#attempt(() => this.#makeZygote());
    else if (this.#wanted && !this.#armed) this.#step = this.#attempt(() => this.#arm());
  }

  /** Runs one step. When it has failed the next one comes later, each time after a longer pause. */
  async #attempt(step: () => Promise<void>): Promise<void> {
    this.#busy = true;
    try {
      await step();
      this.#busy = false;
      this.#fill();
    } catch (error) {
      this.#busy = false;
      this.#retryLater(messageOf(error));
    }
  }

  #retryLater(reason: string): void {
    if (this.#closed) return;
    // A cause that stays is logged once.
    if (reason !== this.#lastWarning) this.#context.log("warn", "standby not ready", { reason });
    this.#lastWarning = reason;
    const pause = Math.min(RETRY_PAUSE_MS * 2 ** this.#failures, MAX_RETRY_PAUSE_MS);
    this.#failures += 1;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#fill(), pause);
    this.#timer.unref?.();
  }

  async #makeZygote(): Promise<void> {
    const { config, log } = this.#context;
    const startedAt = performance.now();
    const zygote = await Zygote.spawn(this.#context, this.#options ?? parseOptions({}, config));
    if (this.#closed) return await this.#track(zygote.discard());
    this.#zygote = zygote;
    await zygote.ready.catch(async (error: Error) => {
      if (this.#zygote !== zygote) return;
      const reason = withLastLine(error.message, zygote.takeLog());
      await this.#endZygote();
      throw new Error(reason);
    });
    if (this.#zygote !== zygote) return;
    this.#failures = 0;
    log("debug", "standby ready", { pid: zygote.pid, armed: false, ms: Math.round(performance.now() - startedAt) });
    void loadClient();
    void zygote.exited.then((exit) => this.#handleExit(zygote, exit));
  }

  /** The zygote has ended unasked. */
  #handleExit(zygote: Zygote, exit: Exit): void {
    if (this.#zygote !== zygote) return;
    this.#zygote = undefined;
    void this.#track(zygote.discard());
    this.#retryLater(`it ended with ${describeExit(exit)}`);
  }

  async #endZygote(): Promise<void> {
    const zygote = this.#zygote;
    this.#zygote = undefined;
    if (zygote) await this.#track(zygote.discard());
  }

  async #arm(): Promise<void> {
    const [zygote, arming] = [this.#zygote, this.#wanted];
    if (!zygote || !arming) return;
    const startedAt = performance.now();
    try {
      const armed: Armed = { ...(await zygote.fork(arming.options, arming.token, true)), arming, ready: false };
      this.#armed = armed;
      if (this.#closed || !this.#isWanted(arming)) return this.#endArmed(armed);
      await awaitArmed(armed);
      armed.ready = true;
      const ms = Math.round(performance.now() - startedAt);
      this.#context.log("debug", "standby ready", { pid: armed.child.pid, armed: true, ms });
      void armed.child.exited.then((exit) => this.#handleArmedExit(armed, exit));
    } catch (error) {
      const armed = this.#armed;
      this.#armed = undefined;
      if (armed) this.#endArmed(armed);
      if (error instanceof StaleError && error.renew) await this.#endZygote();
      if (!this.#isWanted(arming)) return;
      // Arming the same options again would fail again; a start with them tells why.
      this.#wanted = undefined;
      throw new Error(withLastLine(messageOf(error), zygote.takeLog()));
    }
  }

  #handleArmedExit(armed: Armed, exit: Exit): void {
    if (this.#armed !== armed) return;
    this.#endArmed(armed);
    this.#retryLater(`the armed one ended with ${describeExit(exit)}`);
  }

  #endArmed(armed: Armed): void {
    if (this.#armed === armed) this.#armed = undefined;
    void this.#track(armed.discard());
  }

  /** Lets `close` wait for the end of a process. */
  #track<T>(end: Promise<T>): Promise<T> {
    this.#ends = Promise.allSettled([this.#ends, end]).then(() => {});
    return end;
  }
}

/** Whether an armed process can serve a start. A token in use serves only a start that names it. */
function serves(arming: Arming, options: StartOptions, token: string | undefined): boolean {
  return arming.options.key === options.key && (token === undefined ? arming.fresh : token === arming.token);
}

async function awaitArmed({ reports, child }: Armed): Promise<void> {
  for (;;) {
    const { value, done } = await reports.next();
    if (done || !value) throw new Error(`the armed one ended with ${describeExit(await child.exited)}`);
    requireFresh(value);
    if (value.phase === "armed") return;
  }
}

function withLastLine(reason: string, log: string): string {
  const detail = log.trimEnd().split("\n").at(-1);
  return detail ? `${reason}: ${detail}` : reason;
}
