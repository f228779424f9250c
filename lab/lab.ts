/** One JupyterLab process, from its spawn until nothing of it is left. */
import type { ErrorCode, LastExit } from "../lib/errors.ts";
import { endProcessTree, type Survivors } from "../lib/process-tree.ts";
import {
  countOomKills,
  findProcessTree,
  isAlive,
  type ProcessInfo,
  type ProcessTree,
  readProcess,
} from "../lib/procfs.ts";
import { type Exit, type Process, settlesWithin, trySignal } from "../lib/spawn.ts";
import { parseJson } from "../lib/values.ts";
import { type Answer, ask, toLocalHost } from "./client.ts";
import type { Context } from "./context.ts";
import { adviseSafeMode, diagnose, type Evidence, findLoggedError } from "./diagnosis.ts";
import { markOf, removeRuntimeDir } from "./folders.ts";
import { findGateway, GATEWAY_TIMEOUT_MS } from "./gateway.ts";
import { deleteGatewayKernels } from "./gateway-kernels.ts";
import type { LaunchedProcess, ServerInfo, StartKind } from "./launch-spec.ts";
import { findSecrets, type StartOptions } from "./options.ts";
import type { Refusal } from "./settings.ts";

/** Duration of a start in milliseconds: `total`, and each phase in order. */
type StartTimes = Record<string, number>;

/** Called at the end of each phase of a start, with its duration and the time since the start began, in milliseconds. */
export type OnPhase = (kind: StartKind, phase: string, ms: number, totalMs: number) => void;

/** A place in the log: the number of its last line in memory, and of its last byte in the file. */
interface LogPosition {
  mark: number;
  offset: number;
}

/** The header that `python/identity.py` compares with the secret of the start. */
const SUPERVISOR_HEADER = "X-Jupyter-Server-Supervisor";
const LOG_TAIL_LINES = 50;
/** The share of a stop's time in which kernels may end by themselves. */
const KERNEL_SHARE = 0.4;
/** The share of a stop's time that is reserved for killing what is left. */
const KILL_SHARE = 0.15;
/** A killed process can need this long to disappear on a busy machine, and a stop that does not wait for that would fail. */
export const MIN_KILL_MS = 1000;
/** JupyterLab waits for ever for kernels that it can't delete at their gateway, so it gets only this long to end. */
const UNREACHABLE_GATEWAY_GRACE_MS = 500;

/** A JupyterLab process. It ends by `stop`, by `kill` or by itself; `clear` then ends what is left of it. */
export class Lab {
  readonly options: StartOptions;
  readonly kind: StartKind;
  readonly token: string;
  readonly secret: string;
  /** Sentences about settings that have no effect, and about a PYTHON that is a wrapper. */
  warnings: string[] = [];
  /** The folders from which it serves static files; empty where that is not known. */
  assetFolders: string[] = [];
  /** Why JupyterLab can't start, as the launcher has reported it. */
  refusal: Refusal | undefined;
  readonly runtimeDir: string;
  readonly times: StartTimes = {};
  readonly exited: Promise<Exit>;
  /** Where its own lines begin in the log file. */
  readonly logOffset: number;
  /** What JupyterLab says of itself; undefined before its port is bound. */
  info: ServerInfo | undefined;
  #context: Context;
  #child: Process;
  #root: ProcessInfo[];
  /** Its processes when its stop began: one without the mark is found only by its parent, which may end before it. */
  #known: ProcessInfo[] = [];
  #logMark: number;
  #oomKills = countOomKills();
  #secrets: string[];
  #survivors: Survivors = { processes: [] };

  /** Takes ownership of a process that becomes JupyterLab. Its log begins now, or where it was recorded to begin. */
  constructor(context: Context, launched: Omit<LaunchedProcess, "reports">, options: StartOptions, log: LogPosition) {
    const { child, kind, runtimeDir, token, secret } = launched;
    this.#context = context;
    this.#child = child;
    this.#logMark = log.mark;
    this.logOffset = log.offset;
    this.kind = kind;
    this.runtimeDir = runtimeDir;
    this.#root = listRoot(child.pid);
    this.options = options;
    this.token = token;
    this.secret = secret;
    this.exited = child.exited;
    this.#secrets = [secret, ...findSecrets(options, token)];
    context.secrets.add(...this.#secrets);
    context.labs.add(this);
  }

  /**
   * Records the end of a phase of the start, and returns how long the start has taken up to it, in milliseconds. Phases
   * follow each other without gaps: that is their sum.
   */
  recordPhase(phase: string, startedAt: number, onPhase: OnPhase): number {
    const before = Object.values(this.times).reduce((sum, ms) => sum + ms, 0);
    const total = Math.round((performance.now() - startedAt) * 10) / 10;
    this.times[phase] = Math.round((total - before) * 10) / 10;
    onPhase(this.kind, phase, this.times[phase], total);
    return total;
  }

  /** Start time of the process in clock ticks since boot; with the pid it identifies the process for ever. */
  get startTime(): number {
    return this.#root[0]?.startTime ?? 0;
  }

  get pid(): number {
    return this.#child.pid;
  }

  /** `info` of a JupyterLab that is ready; throws if it is not. */
  get server(): ServerInfo {
    if (!this.info) throw new Error("JupyterLab is not ready");
    return this.info;
  }

  /** The URL at which this program reaches JupyterLab, over loopback if JupyterLab listens there. Ends with a slash. */
  get address(): string {
    const { secure, hostname, port, base_url } = this.server;
    const host = toLocalHost(hostname);
    return `${secure ? "https" : "http"}://${host.includes(":") ? `[${host}]` : host}:${port}${base_url}`;
  }

  /**
   * Sends JupyterLab a request that is let in by the secret of its start, whatever its token and its identity provider are.
   * `path` is relative to the base URL. Rejects as `ask` does.
   */
  request(method: "GET" | "DELETE", path: string, timeoutMs: number, signal?: AbortSignal): Promise<Answer> {
    const url = new URL(path, this.address);
    url.searchParams.set("no_track_activity", "1");
    // A loopback address is a host that JupyterLab answers to with any setting.
    const headers = { [SUPERVISOR_HEADER]: this.secret, host: "127.0.0.1" };
    // JupyterLab's certificate names its public host, and this connection does not leave the machine.
    const tls = { rejectUnauthorized: false };
    return ask(url.href, { method, headers, timeoutMs, tls, ...(signal ? { signal } : {}) });
  }

  /** Why it ended, derived from its exit and its log. */
  explain(exit: Exit): LastExit {
    const log = this.#context.logFile.since(this.#logMark);
    const diagnosis = diagnose({ ...this.#collectEvidence(exit), log });
    diagnosis.message = this.#context.secrets.mask(diagnosis.message);
    return {
      at: new Date().toISOString(),
      ...diagnosis,
      exit_code: exit.code,
      signal: exit.signal,
      log_tail: log.slice(-LOG_TAIL_LINES),
    };
  }

  /** The last error in its log; empty if there is none. */
  findLoggedError(): string {
    return findLoggedError(this.#context.logFile.since(this.#logMark));
  }

  /** How many lines of its log match. */
  countLogged(pattern: RegExp): number {
    return this.#context.logFile.since(this.#logMark).filter((line) => pattern.test(line)).length;
  }

  /** Adds advice to the reason of a start that failed while the process was alive. */
  advise(code: ErrorCode, message: string, exit: Exit): string {
    return adviseSafeMode(code, message, this.#collectEvidence(exit));
  }

  #collectEvidence(exit: Exit): Omit<Evidence, "log"> {
    const { jupyterConfigFile: configFile, jupyterHost, jupyterPort, python } = this.#context.config;
    return {
      exit,
      bound: this.info !== undefined,
      imported: this.kind === "armed" || "import" in this.times,
      usable: "total" in this.times,
      safeMode: this.options.safeMode,
      settings: this.options.settings,
      refusal: this.refusal,
      oomKilled: countOomKills() > this.#oomKills,
      configFile,
      jupyterHost,
      jupyterPort,
      python,
    };
  }

  /** Stops JupyterLab within the time of a stop: first its kernels, then the process, then everything that is left. */
  async stop(): Promise<void> {
    const timeoutMs = this.#context.config.stopTimeoutMs;
    const startedAt = performance.now();
    const remaining = () => timeoutMs - (performance.now() - startedAt);
    const killMs = timeoutMs * KILL_SHARE;
    this.#known = this.#listKnown();
    const isRemote = this.options.gatewayUrl !== undefined;
    const kernelMs = timeoutMs * KERNEL_SHARE;
    // What can't be deleted yet is not logged: it can be gone by JupyterLab's end.
    const kernelsGone = await (isRemote
      ? this.#deleteRemoteKernels(kernelMs, () => {})
      : this.#deleteKernels(kernelMs));
    if (!kernelsGone && !isRemote) {
      // A kernel that ignores its shutdown would delay JupyterLab's own end by seconds.
      for (const { pid } of this.#known.filter((info) => info.pid !== this.#child.pid && isAlive(info))) {
        trySignal(pid, "SIGKILL");
      }
    }
    this.#child.signal("SIGTERM");
    const graceMs = kernelsGone || !isRemote ? Number.POSITIVE_INFINITY : UNREACHABLE_GATEWAY_GRACE_MS;
    // The least that each of the two waits below gets, so that a late stop still kills the process and deletes its kernels.
    const minMs = killMs / 2;
    if (!(await settlesWithin(this.exited, Math.min(remaining() - killMs, graceMs)))) {
      this.#child.signal("SIGKILL");
      await settlesWithin(this.exited, minMs);
    }
    // Until its end JupyterLab can have started others.
    await this.#deleteRemoteKernels(Math.max(Math.min(remaining() - killMs, GATEWAY_TIMEOUT_MS), minMs));
    await this.clear(Math.max(remaining(), killMs), true);
  }

  /** Kills it at once, with everything that belongs to it, and does not wait. */
  kill(): void {
    for (const { pid } of this.#listKnown()) trySignal(pid, "SIGKILL");
  }

  /**
   * Ends what is left once the process ends, by default with SIGKILL and within the time of a stop, and removes its runtime
   * files. Never rejects: what is not known to be gone stays in `context.labs`, and its runtime folder marks it for the next
   * attempt.
   */
  async clear(timeoutMs = this.#context.config.stopTimeoutMs, graceful = false): Promise<void> {
    if (!graceful) await this.#deleteRemoteKernels(Math.min(timeoutMs / 2, GATEWAY_TIMEOUT_MS));
    const killMs = Math.max(timeoutMs, MIN_KILL_MS);
    this.#survivors = await endProcessTree((known) => this.#findTree(known), {
      graceful,
      timeoutMs: killMs,
      mark: markOf(this.runtimeDir),
    });
    await settlesWithin(this.exited, timeoutMs);
    if (this.remains) {
      this.#context.log("error", "processes left", { pid: this.pid, reason: this.remains });
      return;
    }
    if (this.#context.labs.has(this)) {
      // Its last output has to be read, and masked, before its secrets are forgotten.
      await this.#context.logFile.finish();
      if (this.#context.labs.delete(this)) this.#context.secrets.remove(...this.#secrets);
    }
    removeRuntimeDir(this.runtimeDir, this.#context.log);
  }

  /** What the last `clear` has left, as the end of a sentence; empty if nothing. */
  get remains(): string {
    const { processes, unknown } = this.#survivors;
    if (unknown !== undefined)
      return `which of its processes are left is not known, because /proc can't be read (${unknown})`;
    if (processes.length === 0) return "";
    return `${processes.length} of its processes can't be ended (pid ${processes.map(({ pid }) => pid).join(", ")})`;
  }

  #findTree(known: readonly ProcessInfo[] = []): ProcessTree {
    return findProcessTree([...this.#root, ...this.#known.filter(isAlive), ...known], markOf(this.runtimeDir));
  }

  /** Its processes; only the first one if it is not known which others there are. */
  #listKnown(): ProcessInfo[] {
    try {
      return this.#findTree().processes;
    } catch {
      return this.#root.filter(isAlive);
    }
  }

  /** Asks JupyterLab to delete all kernels at once. False if some may be left. */
  async #deleteKernels(timeoutMs: number): Promise<boolean> {
    const startedAt = performance.now();
    const list = await this.request("GET", "api/kernels", timeoutMs / 2).catch(() => undefined);
    const kernels = list?.status === 200 ? parseJson(list.body) : undefined;
    if (!Array.isArray(kernels)) return false;
    const ids = kernels.map((kernel: { id?: unknown }) => String(kernel.id));
    const left = timeoutMs - (performance.now() - startedAt);
    const answers = await Promise.all(
      ids.map((id) => this.request("DELETE", `api/kernels/${encodeURIComponent(id)}`, left).catch(() => undefined)),
    );
    return answers.every((answer) => answer?.status === 204 || answer?.status === 404);
  }

  /** Deletes its kernels at its gateway, which works without JupyterLab. False if some may be left. */
  async #deleteRemoteKernels(timeoutMs: number, log = this.#context.log): Promise<boolean> {
    const gateway = findGateway(this.options, this.#context.config);
    if (!gateway) return true;
    const isRunning = () => this.#root.some(isAlive);
    return await deleteGatewayKernels(gateway, this.runtimeDir, timeoutMs, log, isRunning);
  }
}

/** A process that was spawned just now; empty if it is gone, or if that is not known. */
function listRoot(pid: number): ProcessInfo[] {
  try {
    return [readProcess(pid)].filter((info) => info !== undefined);
  } catch {
    return [];
  }
}
