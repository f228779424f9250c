/** The zygote: a Python process that has imported everything, and forks a process for each start of JupyterLab. */
import { randomBytes } from "node:crypto";
import { realpathSync } from "node:fs";
import { join } from "node:path";
import { PROGRAM_DIR } from "../config.ts";
import { describeExit } from "../lib/errors.ts";
import { endProcessTree } from "../lib/process-tree.ts";
import { findProcessTree, readProcess } from "../lib/procfs.ts";
import { Secrets } from "../lib/redact.ts";
import { type Child, type Exit, KILLED, type Process, settlesWithin, spawnChild } from "../lib/spawn.ts";
import { attachTo, awaitEnd, guessExit, type ListenAddress } from "./attach.ts";
import type { Context } from "./context.ts";
import { makeRuntimeDir, markOf, removeRuntimeDir, requireFolder } from "./folders.ts";
import { buildEnv, buildLaunchSpec, diffEnv, type LaunchedProcess, type Report, readReports } from "./launch-spec.ts";
import { findSecrets, type StartOptions } from "./options.ts";
import { StandbyLog } from "./standby-log.ts";

const PROGRAM = join(PROGRAM_DIR, "python", "zygote.py");
const LOG_NAME = "standby.log";
const WARM_UP_TIMEOUT_MS = 30_000;
/** How long a start waits for a zygote that still imports: a cold start makes the same imports, beside it. */
const WARM_UP_WAIT_MS = 10_000;
const TOKEN_BYTES = 24;
/** The zygote reports an end at once. One that is stopped itself does not. */
const EXIT_REPORT_TIMEOUT_MS = 500;

/** A random token of 48 hexadecimal digits. */
export function makeToken(): string {
  return randomBytes(TOKEN_BYTES).toString("hex");
}

/** A warm process could not become JupyterLab. A cold start can. */
export class StaleError extends Error {
  /** Whether a new zygote may serve where this one could not. */
  readonly renew: boolean;
  constructor(reason: string, renew: boolean) {
    super(reason);
    this.renew = renew;
  }
}

/** Throws a `StaleError` if a report says that its process can't become JupyterLab. */
export function requireFresh({ phase, reason = "it is stale", renew = true }: Report): void {
  if (phase === "stale") throw new StaleError(reason, renew);
}

/** A process that the zygote has forked. Its reports follow each other in `reports`. */
export interface Fork extends Omit<LaunchedProcess, "kind" | "token"> {
  /** Lets an armed one bind its port. */
  release: () => void;
  /** Ends it with all that it has started, and removes its folder. */
  discard: () => Promise<void>;
}

/** What is known of a fork before and after its pid is. */
interface Entry {
  queue: WritableStreamDefaultWriter<Report>;
  ended: PromiseWithResolvers<Exit>;
  address: ListenAddress | undefined;
}

/** A zygote that was spawned, and what it has forked. Its forks outlive it. */
export class Zygote {
  /** Resolves once it can fork; rejects when it ends before, or takes too long. */
  readonly ready: Promise<void>;
  isReady = false;
  readonly exited: Promise<Exit>;
  #context: Context;
  #child: Child;
  #log: StandbyLog;
  /** Secrets of armed processes: they may be in its log. */
  #secrets = new Secrets();
  /** Those of armed processes that have ended: forgotten at the next `takeLog`. */
  #pastSecrets: string[] = [];
  #runtimeDir: string;
  #env: Record<string, string>;
  #entries = new Map<number, Entry>();
  #lastId = 0;
  #hasLearned = false;
  #hasEnded = false;
  #warm = Promise.withResolvers<void>();

  private constructor(
    context: Context,
    child: Child,
    log: StandbyLog,
    runtimeDir: string,
    env: Record<string, string>,
  ) {
    this.#context = context;
    this.#child = child;
    this.#log = log;
    this.#runtimeDir = runtimeDir;
    this.#env = env;
    this.exited = child.exited;
    void child.exited.then(() => {
      this.#hasEnded = true;
    });
    void this.#readReports();
    this.ready = this.#awaitWarm();
    this.ready.catch(() => {});
  }

  /** Spawns one with the environment of a start with these options. Rejects if there is no Python or no folder for it. */
  static async spawn(context: Context, options: StartOptions): Promise<Zygote> {
    const { config } = context;
    requireFolder("NOTEBOOK_DIR", options.notebookDir, 0o777);
    const runtimeDir = makeRuntimeDir(config);
    // It writes to a file of its own: the log belongs to the running server.
    let log: StandbyLog | undefined;
    try {
      log = new StandbyLog(join(runtimeDir, LOG_NAME));
      const env = buildEnv(options, runtimeDir, config);
      const spawning = { cwd: options.notebookDir, env, stderr: log.descriptor };
      const child = await spawnChild([config.python, "-u", PROGRAM], spawning);
      return new Zygote(context, child, log, runtimeDir, env);
    } catch (error) {
      log?.close();
      removeRuntimeDir(runtimeDir, context.log);
      throw error;
    }
  }

  get pid(): number {
    return this.#child.pid;
  }

  /** What it and armed processes have written since the last call, masked: warnings of imports, or why one ended. */
  takeLog(): string {
    const text = this.#secrets.mask(this.#log.take());
    this.#secrets.remove(...this.#pastSecrets.splice(0));
    return text;
  }

  /**
   * Forks a process for a start with these options and this token; `armed`: one that waits for `release` before it binds
   * the port. Rejects with a `StaleError`, after `signal` too; then nothing is left of the fork.
   */
  async fork(options: StartOptions, token: string, armed: boolean, signal?: AbortSignal): Promise<Fork> {
    const { config, logFile, secrets } = this.#context;
    if (!(await settlesWithin(this.ready, WARM_UP_WAIT_MS, signal))) throw new StaleError("it is not ready yet", false);
    await this.ready.catch((error: Error) => {
      throw new StaleError(error.message, true);
    });
    const runtimeDir = makeRuntimeDir(config, token);
    const secret = makeToken();
    const spec = buildLaunchSpec(options, token, secret, runtimeDir, secrets.values(), config);
    const env = diffEnv(this.#env, buildEnv(options, runtimeDir, config));
    this.#lastId += 1;
    const id = this.#lastId;
    const { readable, writable } = new TransformStream<Report, Report>();
    const entry: Entry = { queue: writable.getWriter(), ended: Promise.withResolvers(), address: undefined };
    this.#entries.set(id, entry);
    const reports = readable[Symbol.asyncIterator]();
    // In a forked process a link to /dev/stdout would lead to another file.
    const findLog = () => realpathSync(logFile.path);
    if (armed) {
      const own = [secret, ...findSecrets(options, token)];
      this.#secrets.add(...own);
      void entry.ended.promise.then(() => this.#pastSecrets.push(...own));
    }
    // Until its start an armed one writes to the zygote's own file.
    const task = armed ? { arm: spec } : { spec, log: findLog() };
    this.#write({ id, ...task, env, cwd: options.notebookDir });
    try {
      const child = await this.#awaitFork(id, entry, reports, runtimeDir);
      const release = () => this.#write({ id, go: {}, log: findLog() });
      const discard = async () => {
        child.signal("SIGKILL");
        await this.#endMarked(runtimeDir);
        this.#settle(id, KILLED);
      };
      return { child, reports, runtimeDir, secret, release, discard };
    } catch (error) {
      this.#settle(id, KILLED);
      await this.#endFork(runtimeDir, error);
      throw error;
    }
  }

  /** Ends it; what it has forked goes on. Resolves when it is gone, or can't be ended in the time of a stop. */
  async discard(): Promise<void> {
    this.#child.signal("SIGKILL");
    await settlesWithin(this.exited, this.#context.config.stopTimeoutMs);
    // A process that was being forked at this moment.
    await this.#endMarked(this.#runtimeDir);
    this.#closeLog();
  }

  async #awaitFork(id: number, entry: Entry, reports: AsyncIterator<Report>, runtimeDir: string): Promise<Process> {
    const first = reports.next();
    const { firstReportMs } = this.#context.pauses;
    if (!(await settlesWithin(Promise.race([first, this.exited]), firstReportMs)))
      throw new StaleError(`it reported nothing within ${firstReportMs / 1000} s`, true);
    if (this.#hasEnded) throw new StaleError(`the zygote ended with ${describeExit(await this.exited)}`, true);
    const { value, done } = await first;
    if (done || !value) throw new StaleError("the forked process ended at once", true);
    requireFresh(value);
    const info = readProcess(value.pid ?? 0);
    if (!info) throw new StaleError("the forked process ended at once", true);
    void awaitEnd(info, () => entry.address).then(async () => {
      await settlesWithin(entry.ended.promise, EXIT_REPORT_TIMEOUT_MS);
      // Before its port is bound it has no file whose absence could tell.
      this.#settle(id, entry.address ? guessExit(info, runtimeDir) : { code: null, signal: null });
    });
    return attachTo(info, entry.ended.promise);
  }

  /** A zygote that hangs could fork later, for a start that no longer waits: it is ended with what it has forked. */
  async #endFork(runtimeDir: string, error: unknown): Promise<void> {
    if (error instanceof StaleError && error.renew) await this.discard();
    await this.#endMarked(runtimeDir);
  }

  async #endMarked(runtimeDir: string): Promise<void> {
    const mark = markOf(runtimeDir);
    const timeoutMs = this.#context.config.stopTimeoutMs;
    await endProcessTree((known) => findProcessTree(known, mark), { graceful: false, timeoutMs, mark });
    removeRuntimeDir(runtimeDir, this.#context.log);
  }

  async #awaitWarm(): Promise<void> {
    const ended = this.exited.then((exit) => Promise.reject(new Error(`it ended with ${describeExit(exit)}`)));
    ended.catch(() => {});
    const settled = Promise.race([this.#warm.promise, ended]);
    settled.catch(() => {});
    if (!(await settlesWithin(settled, WARM_UP_TIMEOUT_MS)))
      throw new Error(`it was not ready within ${WARM_UP_TIMEOUT_MS / 1000} s`);
    await settled;
    this.isReady = true;
  }

  /** Tells the end of a fork, unless it is known, and ends its reports. */
  #settle(id: number, exit: Exit): void {
    const entry = this.#entries.get(id);
    this.#entries.delete(id);
    entry?.ended.resolve(exit);
    void entry?.queue.close();
    this.#closeLog();
  }

  /** Closes its log once nobody that it has forked can write to it. */
  #closeLog(): void {
    if (this.#hasEnded && this.#entries.size === 0) this.#log.close();
  }

  #write(message: object): void {
    this.#child.write(`${JSON.stringify(message)}\n`);
  }

  async #readReports(): Promise<void> {
    for await (const report of readReports(this.#child)) {
      if (report.phase === "warm") this.#warm.resolve();
      const entry = this.#entries.get(report.id ?? 0);
      if (!entry) continue;
      if (report.server) {
        entry.address = report.server;
        if (!this.#hasLearned) this.#write({ id: report.id, learn: {} });
        this.#hasLearned = true;
      }
      if (report.phase === "exited") {
        this.#settle(report.id ?? 0, { code: report.code ?? null, signal: report.signal ?? null });
      } else {
        void entry.queue.write(report);
      }
    }
  }
}
