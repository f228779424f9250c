/** The standby: Python processes that have done most of a start's work in advance. Each one serves one start. */
import { randomBytes } from "node:crypto";
import { closeSync, mkdirSync, openSync } from "node:fs";
import { join } from "node:path";
import { PROGRAM_DIR } from "../config.ts";
import { describeExit } from "../lib/errors.ts";
import { readTextFile, removeFolder } from "../lib/files.ts";
import { type Child, spawnChild } from "../lib/spawn.ts";
import { loadClient } from "./client.ts";
import type { Context } from "./context.ts";
import { makeRuntimeDir, requireFolder } from "./folders.ts";
import {
  buildEnv,
  buildLaunchSpec,
  diffEnv,
  type LaunchedProcess,
  type Report,
  readReports,
  type StartKind,
} from "./launch-spec.ts";
import { parseOptions, type StartOptions } from "./options.ts";

/** The options and the token that an armed process is initialised with. */
interface Arming {
  options: StartOptions;
  token: string;
  /** Whether the token is random and unused: only then may it serve a start that names no token. */
  fresh: boolean;
}

/** A process that is ready or getting ready. Without `arming` it serves a start with any options. */
interface Warm {
  child: Child;
  reports: AsyncIterator<Report>;
  runtimeDir: string;
  env: Record<string, string>;
  arming: Arming | undefined;
  secret: string;
  ready: boolean;
}

const PROGRAM = join(PROGRAM_DIR, "python", "standby.py");
const RETRY_PAUSE_MS = 1000;
const MAX_RETRY_PAUSE_MS = 60_000;
const TOKEN_BYTES = 24;

/** A random token or secret of 48 hexadecimal digits. */
export function makeToken(): string {
  return randomBytes(TOKEN_BYTES).toString("hex");
}

/** Keeps the processes that `STANDBY` asks for. A start never depends on them: without one it is only slower. */
export class Standby {
  #context: Context;
  #kept = new Set<Warm>();
  /** What an armed process is to be initialised with; undefined: none is wanted. */
  #wanted: Arming | undefined;
  #active = false;
  #making = false;
  #failures = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** Starts nothing before `fillIdle` or `fillWhileRunning`. */
  constructor(context: Context) {
    this.#context = context;
  }

  /** While no JupyterLab runs: keeps a process for any options and, if armed, one for the last options or the defaults. */
  fillIdle(last: StartOptions | undefined): void {
    const options = last ?? parseOptions({}, this.#context.config);
    this.#keep({ options, token: options.token ?? makeToken(), fresh: options.token === undefined });
  }

  /** While a JupyterLab runs: keeps both, with its options and token, if armed; otherwise nothing. */
  fillWhileRunning(options: StartOptions, token: string): void {
    if (this.#context.config.standby === "armed") this.#keep({ options, token, fresh: false });
    else this.close();
  }

  /** During a start or a stop: keeps what is ready and starts nothing new, which would take processor time. */
  pause(): void {
    this.#active = false;
    clearTimeout(this.#timer);
  }

  /** Ends every process. */
  close(): void {
    this.pause();
    for (const warm of this.#kept) this.#discard(warm);
  }

  /** The processes that are ready. */
  pids(): number[] {
    return [...this.#kept].filter(({ ready }) => ready).map(({ child }) => child.pid);
  }

  /**
   * Takes a ready process and tells it to become JupyterLab with these options; undefined if none fits. `token` is the one
   * that the start must have; undefined: any that is not in use.
   */
  acquire(options: StartOptions, token: string | undefined): LaunchedProcess | undefined {
    const { config, logFile, secrets } = this.#context;
    const log = logFile.path;
    const ready = [...this.#kept].filter((warm) => warm.ready);
    const armed = ready.find(({ arming }) => arming && serves(arming, options, token));
    if (armed?.arming) return this.#release(armed, "armed", armed.arming.token, { go: {}, log });
    const warm = ready.find(({ arming }) => !arming);
    // Safe mode changes what is read at import.
    if (!warm || options.safeMode) {
      // A cold start needs the whole processor.
      for (const unready of this.#kept) if (!unready.ready) this.#discard(unready);
      return undefined;
    }
    const chosen = token ?? makeToken();
    const spec = buildLaunchSpec(options, chosen, warm.secret, secrets.values(), config);
    const env = diffEnv(warm.env, buildEnv(options, warm.runtimeDir, config));
    return this.#release(warm, "standby", chosen, { spec, env, cwd: options.notebookDir, log });
  }

  #release(warm: Warm, kind: StartKind, token: string, message: object): LaunchedProcess {
    const { child, reports, runtimeDir, secret } = warm;
    this.#kept.delete(warm);
    // Its output so far belongs to the start's log.
    const written = readTextFile(join(runtimeDir, "standby.log"));
    if (written) this.#context.logFile.append(written);
    // Somebody can have removed it, and JupyterLab does not make it.
    mkdirSync(runtimeDir, { recursive: true, mode: 0o700 });
    child.write(`${JSON.stringify(message)}\n`);
    return { kind, child, reports, runtimeDir, token, secret };
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

  /** Starts what is missing, one process at a time: two at once would delay each other. */
  #fill(): void {
    clearTimeout(this.#timer);
    if (!this.#active || this.#making) return;
    const kept = [...this.#kept];
    if (!kept.some(({ arming }) => !arming)) void this.#make(undefined);
    else if (this.#wanted && !kept.some(({ arming }) => arming)) void this.#make(this.#wanted);
  }

  async #make(arming: Arming | undefined): Promise<void> {
    const startedAt = performance.now();
    this.#making = true;
    const made = await this.#spawn(arming).catch((error: unknown) => ({ error }));
    const failure = "error" in made ? made : await this.#warmUp(made).catch((error: unknown) => ({ error }));
    this.#making = false;
    const warm = "error" in made ? undefined : made;
    if (failure) {
      this.#handleFailure(warm, failure.error);
    } else if (warm) {
      this.#failures = 0;
      const ms = Math.round(performance.now() - startedAt);
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
      const arm = buildLaunchSpec(options, token, warm.secret, secrets.values(), config);
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
    let stderr: number | undefined;
    try {
      // It writes to a file of its own until it becomes JupyterLab: the log belongs to the running server.
      stderr = openSync(join(runtimeDir, "standby.log"), "a", 0o600);
      const env = buildEnv(options, runtimeDir, config);
      const child = await spawnChild([config.python, "-u", PROGRAM], { cwd: options.notebookDir, env, stderr });
      const warm = { child, reports: readReports(child), runtimeDir, env, arming, secret: makeToken(), ready: false };
      if (this.#active) this.#kept.add(warm);
      else this.#discard(warm);
      return warm;
    } catch (error) {
      removeFolder(runtimeDir);
      throw error;
    } finally {
      if (stderr !== undefined) closeSync(stderr);
    }
  }

  /** Reports a failure and plans the next attempt. Discarded and acquired processes are ignored. */
  #handleFailure(warm: Warm | undefined, error: unknown): void {
    let pause = 0;
    if (!warm || this.#kept.has(warm)) {
      const arming = warm?.arming;
      const reason = error instanceof Error ? error.message : String(error);
      const detail = warm ? lastLine(readTextFile(join(warm.runtimeDir, "standby.log"))) : "";
      const explanation = [reason, detail].filter(Boolean).join(": ");
      this.#context.log("warn", "standby not ready", { armed: arming !== undefined, reason: explanation });
      if (warm) this.#discard(warm);
      // Arming the same options again would fail again; a start with them tells why.
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
    void warm.child.exited.then(() => removeFolder(warm.runtimeDir));
  }
}

/** Whether an armed process can serve a start. A token in use serves only a start that names it. */
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
