/** The standby: Pythons that have done a start's work beforehand, each kept for one start and used once. */
import { randomBytes } from "node:crypto";
import { appendFileSync, closeSync, openSync, rmSync } from "node:fs";
import { join } from "node:path";
import { PROGRAM_DIR } from "../config.ts";
import { describeExit } from "../lib/errors.ts";
import { type Child, readTextFile, spawnChild } from "../lib/spawn.ts";
import { loadClient } from "./client.ts";
import { makeRuntimeDir, requireFolder } from "./folders.ts";
import type { Context } from "./lab.ts";
import { buildEnv, buildOrder, diffEnv, type Report, readReports } from "./launch-spec.ts";
import { parseOptions, type StartOptions } from "./options.ts";

/** A process that is, or is to become, JupyterLab, as a start takes it over. */
export interface Handover {
  kind: "cold" | "standby" | "armed";
  child: Child;
  reports: AsyncIterator<Report>;
  runtimeDir: string;
  token: string;
}

/** Options and token that an armed process is initialised with. */
interface Arming {
  options: StartOptions;
  token: string;
  /** Whether the token is random and nobody's yet: then it may serve a start that asks for none. */
  fresh: boolean;
}

/** A process on its way to readiness, or ready. Without `arming` it serves a start with any options. */
interface Warm {
  child: Child;
  reports: AsyncIterator<Report>;
  runtimeDir: string;
  env: Record<string, string>;
  arming: Arming | undefined;
  ready: boolean;
}

const PROGRAM = join(PROGRAM_DIR, "python", "standby.py");
const RETRY_PAUSE_MS = 1000;
const MAX_RETRY_PAUSE_MS = 60_000;
const TOKEN_BYTES = 24;

/** A token that nobody can guess: 48 hexadecimal digits. */
export function makeToken(): string {
  return randomBytes(TOKEN_BYTES).toString("hex");
}

/** Keeps what `STANDBY` asks for. Whatever happens to a process of it: a start is slower then, and never fails by it. */
export class Standby {
  #context: Omit<Context, "standby">;
  #kept = new Set<Warm>();
  /** What an armed process is to be initialised with; undefined: none is wanted. */
  #wanted: Arming | undefined;
  #active = false;
  #making = false;
  #failures = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** Starts nothing before `rest` or `accompany`. */
  constructor(context: Omit<Context, "standby">) {
    this.#context = context;
  }

  /** No JupyterLab runs: keeps a process for any options and, armed, one for those of the last start or the defaults. */
  rest(last: StartOptions | undefined): void {
    const options = last ?? parseOptions({}, this.#context.config);
    this.#keep({ options, token: options.token ?? makeToken(), fresh: options.token === undefined });
  }

  /** A JupyterLab runs: `armed` keeps both for its restart, with its own options and token; else nothing is kept. */
  accompany(options: StartOptions, token: string): void {
    if (this.#context.config.standby === "armed") this.#keep({ options, token, fresh: false });
    else this.close();
  }

  /** A start or a stop is under way: what is ready stays, and nothing new takes its processor time. */
  pause(): void {
    this.#active = false;
    clearTimeout(this.#timer);
  }

  /** Ends all of it. */
  close(): void {
    this.pause();
    for (const warm of this.#kept) this.#discard(warm);
  }

  /** The processes that are kept ready. */
  pids(): number[] {
    return [...this.#kept].filter(({ ready }) => ready).map(({ child }) => child.pid);
  }

  /**
   * Hands a ready process over, told to become JupyterLab with these options; undefined where none fits. `token` is the
   * one the start must have; undefined: any that nobody else has.
   */
  take(options: StartOptions, token: string | undefined): Handover | undefined {
    const { config, output, secrets } = this.#context;
    const log = output.path;
    const ready = [...this.#kept].filter((warm) => warm.ready);
    const armed = ready.find(({ arming }) => arming && serves(arming, options, token));
    if (armed?.arming) return this.#handOver(armed, "armed", armed.arming.token, { go: {}, log });
    const warm = ready.find(({ arming }) => !arming);
    // Safe mode changes what is read at import.
    if (!warm || options.safeMode) {
      // A start from nothing has the processor to itself.
      for (const unready of this.#kept) if (!unready.ready) this.#discard(unready);
      return undefined;
    }
    const chosen = token ?? makeToken();
    const order = buildOrder(options, chosen, secrets.values(), config);
    const env = diffEnv(warm.env, buildEnv(options, warm.runtimeDir, config));
    return this.#handOver(warm, "standby", chosen, { spec: order, env, cwd: options.notebookDir, log });
  }

  #handOver(warm: Warm, kind: Handover["kind"], token: string, message: object): Handover {
    const { child, reports, runtimeDir } = warm;
    this.#kept.delete(warm);
    // What it has written until now belongs to the start that it becomes.
    const written = readTextFile(join(runtimeDir, "standby.log"));
    if (written) appendFileSync(this.#context.output.path, written);
    child.write(`${JSON.stringify(message)}\n`);
    return { kind, child, reports, runtimeDir, token };
  }

  #keep(wanted: Arming): void {
    const { standby } = this.#context.config;
    if (standby === "off") return;
    this.#active = true;
    this.#wanted = standby === "armed" && !wanted.options.safeMode ? wanted : undefined;
    for (const warm of this.#kept) if (warm.arming && !this.#isWanted(warm.arming)) this.#discard(warm);
    this.#fill();
  }

  #isWanted(arming: Arming): boolean {
    const wanted = this.#wanted;
    return wanted !== undefined && serves(arming, wanted.options, wanted.fresh ? undefined : wanted.token);
  }

  /** Makes what is missing, one after the other: two at once would only keep each other from being ready. */
  #fill(): void {
    clearTimeout(this.#timer);
    if (!this.#active || this.#making) return;
    const kept = [...this.#kept];
    if (!kept.some(({ arming }) => !arming)) void this.#make(undefined);
    else if (this.#wanted && !kept.some(({ arming }) => arming)) void this.#make(this.#wanted);
  }

  async #make(arming: Arming | undefined): Promise<void> {
    const begun = performance.now();
    this.#making = true;
    const made = await this.#spawn(arming).catch((error: unknown) => ({ error }));
    const failure = "error" in made ? made : await this.#warmUp(made).catch((error: unknown) => ({ error }));
    this.#making = false;
    const warm = "error" in made ? undefined : made;
    if (failure) {
      this.#handleFailure(warm, failure.error);
    } else if (warm) {
      this.#failures = 0;
      const ms = Math.round(performance.now() - begun);
      this.#context.log("debug", "standby ready", { pid: warm.child.pid, armed: arming !== undefined, ms });
      void loadClient();
      warm.child.exited.then((exit) => this.#handleFailure(warm, new Error(`it ended with ${describeExit(exit)}`)));
      this.#fill();
    }
  }

  async #warmUp(warm: Warm): Promise<undefined> {
    const { config, secrets } = this.#context;
    await awaitPhase(warm, "warm");
    if (warm.arming) {
      const { options, token } = warm.arming;
      const arm = buildOrder(options, token, secrets.values(), config);
      warm.child.write(`${JSON.stringify({ arm })}\n`);
      await awaitPhase(warm, "armed");
    }
    warm.ready = true;
  }

  async #spawn(arming: Arming | undefined): Promise<Warm> {
    const { config } = this.#context;
    const options = arming?.options ?? parseOptions({}, config);
    requireFolder("NOTEBOOK_DIR", options.notebookDir, 0o777);
    const runtimeDir = makeRuntimeDir(config);
    // It writes into a file of its own until it is JupyterLab: what runs meanwhile has the log for itself.
    const stderr = openSync(join(runtimeDir, "standby.log"), "a", 0o600);
    try {
      const env = buildEnv(options, runtimeDir, config);
      const child = await spawnChild([config.python, "-u", PROGRAM], { cwd: options.notebookDir, env, stderr });
      const warm = { child, reports: readReports(child), runtimeDir, env, arming, ready: false };
      if (this.#active) this.#kept.add(warm);
      else this.#discard(warm);
      return warm;
    } catch (error) {
      rmSync(runtimeDir, { recursive: true, force: true });
      throw error;
    } finally {
      closeSync(stderr);
    }
  }

  /** What was discarded or handed over does not fail here any more. */
  #handleFailure(warm: Warm | undefined, error: unknown): void {
    let pause = 0;
    if (!warm || this.#kept.has(warm)) {
      const arming = warm?.arming;
      const reason = error instanceof Error ? error.message : String(error);
      const detail = warm ? lastLine(readTextFile(join(warm.runtimeDir, "standby.log"))) : "";
      const told = [reason, detail].filter(Boolean).join(": ");
      this.#context.log("warn", "standby not ready", { armed: arming !== undefined, reason: told });
      if (warm) this.#discard(warm);
      // What can't be armed now can't be later either: a start with these options will say why.
      if (arming && !warm.ready && this.#isWanted(arming)) this.#wanted = undefined;
      pause = Math.min(RETRY_PAUSE_MS * 2 ** this.#failures, MAX_RETRY_PAUSE_MS);
      this.#failures += 1;
    }
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#fill(), pause);
    this.#timer.unref?.();
  }

  #discard(warm: Warm): void {
    this.#kept.delete(warm);
    warm.child.signal("SIGKILL");
    void warm.child.exited.then(() => rmSync(warm.runtimeDir, { recursive: true, force: true }));
  }
}

/** Whether an armed process can serve a start; a token that is somebody's serves only who asks for it. */
function serves(arming: Arming, options: StartOptions, token: string | undefined): boolean {
  return arming.options.key === options.key && (token === undefined ? arming.fresh : token === arming.token);
}

async function awaitPhase({ reports, child }: Warm, phase: string): Promise<void> {
  for (;;) {
    const { value, done } = await reports.next();
    if (done || !value) throw new Error(`it ended with ${describeExit(await child.exited)}`);
    if (value.phase === "stale") throw new Error(value.reason ?? "stale");
    if (value.phase === phase) return;
  }
}

function lastLine(text: string): string {
  return text.trimEnd().split("\n").at(-1) ?? "";
}
