/** One JupyterLab process: brought up until it answers, and brought down until nothing of it is left. */
import { rmSync } from "node:fs";
import type { Config } from "../config.ts";
import type { ErrorCode, LastExit } from "../lib/errors.ts";
import type { Log } from "../lib/log.ts";
import type { Secrets } from "../lib/redact.ts";
import * as processes from "../lib/spawn.ts";
import { type Answer, ask, parseJson, toLocalHost } from "./client.ts";
import { adviseSafeMode, diagnose, type Evidence } from "./diagnosis.ts";
import { findGateway, GATEWAY_TIMEOUT_MS, releaseKernels } from "./gateway.ts";
import type { Journal } from "./history.ts";
import type { Output } from "./log-file.ts";
import { findSecrets, type StartOptions } from "./options.ts";
import type { Handover, Standby } from "./standby.ts";

/** What every part of the supervisor works with. */
export interface Context {
  config: Config;
  secrets: Secrets;
  output: Output;
  log: Log;
  journal: Journal;
  /** Every JupyterLab that is not known to be gone. */
  labs: Set<Lab>;
  standby: Standby;
}

/** What JupyterLab says of itself, under Jupyter's names. */
export interface ServerInfo {
  hostname: string;
  port: number;
  secure: boolean;
  base_url: string;
  root_dir: string;
  password: boolean;
  pid: number;
  version: string;
}

/** How long a start's parts took, in milliseconds: `total`, and by phase in their order. */
export type StartTimes = Record<string, number>;

const LOG_TAIL_LINES = 50;
/** The part of a stop's time that kernels have to end by themselves. */
const KERNEL_SHARE = 0.4;
/** The part of a stop's time that is kept for killing what is left. */
const SWEEP_SHARE = 0.15;
/** A JupyterLab whose kernels can't be deleted at their gateway waits for ever for just that: it is not waited for. */
const UNHEARD_GRACE_MS = 500;

/** A JupyterLab process, from its spawn on. It ends by `stop`, by `kill` or by itself; `clear` ends what is left then. */
export class Lab {
  readonly options: StartOptions;
  readonly kind: Handover["kind"];
  readonly token: string;
  readonly runtimeDir: string;
  readonly times: StartTimes = {};
  readonly exited: Promise<processes.Exit>;
  #context: Context;
  #child: processes.Child;
  #root: processes.ProcessInfo[];
  #logMark: number;
  #oomKills = processes.countOomKills();
  /** What JupyterLab says of itself; undefined before its port is bound. */
  info: ServerInfo | undefined;
  #secrets: string[];

  /** Takes over a process that is to become JupyterLab; its log begins at `logMark`. */
  constructor(context: Context, handover: Handover, options: StartOptions, logMark: number) {
    const { child, kind, runtimeDir, token } = handover;
    this.#context = context;
    this.#child = child;
    this.#logMark = logMark;
    this.kind = kind;
    this.runtimeDir = runtimeDir;
    const info = processes.readProcess(child.pid);
    this.#root = info ? [info] : [];
    this.options = options;
    this.token = token;
    this.exited = child.exited;
    this.#secrets = findSecrets(options, token);
    context.secrets.add(...this.#secrets);
    context.labs.add(this);
  }

  /** Notes the end of a start's phase. Phases follow each other without gaps: together they are the total. */
  recordPhase(phase: string, begun: number): void {
    const before = Object.values(this.times).reduce((sum, ms) => sum + ms, 0);
    const elapsed = performance.now() - begun;
    this.times[phase] = Math.round((elapsed - before) * 10) / 10;
    this.#context.journal.recordPhase(this.kind, phase, this.times[phase], Math.round(elapsed * 10) / 10);
  }

  /** When the process was started, in clock ticks since boot: with its pid it names the process for ever. */
  get startTime(): number {
    return this.#root[0]?.startTime ?? 0;
  }

  get pid(): number {
    return this.#child.pid;
  }

  /** `info` of a JupyterLab that is known to be ready; throws where it is not. */
  get server(): ServerInfo {
    if (!this.info) throw new Error("JupyterLab is not ready");
    return this.info;
  }

  /** Where this program reaches JupyterLab: over loopback, where it listens there. Ends with the base URL's slash. */
  get address(): string {
    const { secure, hostname, port, base_url } = this.server;
    const host = toLocalHost(hostname);
    return `${secure ? "https" : "http"}://${host.includes(":") ? `[${host}]` : host}:${port}${base_url}`;
  }

  /** Sends JupyterLab an authenticated request. `path` begins after the base URL. Rejects like `ask`. */
  request(method: "GET" | "DELETE", path: string, timeoutMs: number, signal?: AbortSignal): Promise<Answer> {
    const url = new URL(path, this.address);
    url.searchParams.set("token", this.token);
    url.searchParams.set("no_track_activity", "1");
    // JupyterLab's own certificate is for the outside: over loopback there is nobody to be taken for.
    const tls = { rejectUnauthorized: false };
    return ask(url.href, { method, timeoutMs, tls, ...(signal ? { signal } : {}) });
  }

  /** Why it ended, told from its exit and its log. */
  explain(exit: processes.Exit): LastExit {
    const log = this.#context.output.since(this.#logMark);
    const verdict = diagnose({ ...this.#collectEvidence(exit), log });
    return {
      at: new Date().toISOString(),
      ...verdict,
      exit_code: exit.code,
      signal: exit.signal,
      log_tail: log.slice(-LOG_TAIL_LINES),
    };
  }

  /** The reason of a start that failed while it was still alive, and what may help. */
  advise(code: ErrorCode, message: string, exit: processes.Exit): string {
    return adviseSafeMode(code, message, this.#collectEvidence(exit));
  }

  #collectEvidence(exit: processes.Exit): Omit<Evidence, "log"> {
    const { jupyterConfigFile: configFile, jupyterHost, jupyterPort, python } = this.#context.config;
    return {
      exit,
      bound: this.info !== undefined,
      imported: this.kind === "armed" || "import" in this.times,
      usable: "total" in this.times,
      safeMode: this.options.safeMode,
      settings: Object.keys(this.options.settings),
      oomKilled: processes.countOomKills() > this.#oomKills,
      configFile,
      jupyterHost,
      jupyterPort,
      python,
    };
  }

  /**
   * Stops JupyterLab within `timeoutMs`, whatever it does: its kernels first, then itself, then everything that is left.
   */
  async stop(timeoutMs: number): Promise<void> {
    const begun = performance.now();
    const remaining = () => timeoutMs - (performance.now() - begun);
    const sweepMs = timeoutMs * SWEEP_SHARE;
    const family = this.#findFamily();
    const isRemote = this.options.gatewayUrl !== undefined;
    const kernelMs = timeoutMs * KERNEL_SHARE;
    const kernelsGone = await (isRemote ? this.#deleteRemoteKernels(kernelMs) : this.#deleteKernels(kernelMs));
    if (!kernelsGone && !isRemote) {
      // A kernel that does not obey would hold up JupyterLab's own end for seconds more.
      for (const { pid } of family.filter((info) => info.pid !== this.#child.pid && processes.isAlive(info))) {
        processes.sendSignal(pid, "SIGKILL");
      }
    }
    this.#child.signal("SIGTERM");
    const graceMs = kernelsGone || !isRemote ? Number.POSITIVE_INFINITY : UNHEARD_GRACE_MS;
    const patienceMs = Math.min(remaining() - sweepMs, graceMs);
    if (!(await processes.settlesWithin(this.exited, patienceMs))) this.#child.signal("SIGKILL");
    await this.clear(Math.max(remaining(), sweepMs), true);
  }

  /** Kills it at once, with everything that belongs to it. For the end of the program, which does not wait. */
  kill(): void {
    for (const { pid } of this.#findFamily()) processes.sendSignal(pid, "SIGKILL");
  }

  /** Ends what is left after the process's end, or with it, and removes its runtime files. */
  async clear(timeoutMs: number, graceful: boolean): Promise<void> {
    if (!graceful) await this.#deleteRemoteKernels(Math.min(timeoutMs / 2, GATEWAY_TIMEOUT_MS));
    const left = await processes.sweepFamily(() => this.#findFamily(), { graceful, timeoutMs });
    for (const { pid } of left) this.#context.log("error", "process left", { pid, reason: "it can't be killed" });
    await processes.settlesWithin(this.exited, timeoutMs);
    // What it wrote last is read, and so masked, before its secrets are forgotten.
    this.#context.output.mark();
    if (this.#context.labs.delete(this)) this.#context.secrets.remove(...this.#secrets);
    rmSync(this.runtimeDir, { recursive: true, force: true });
  }

  #findFamily(): processes.ProcessInfo[] {
    return processes.findFamily(this.#root, `JUPYTER_RUNTIME_DIR=${this.runtimeDir}`);
  }

  /** Asks JupyterLab to delete all kernels side by side. False: some may be left. */
  async #deleteKernels(timeoutMs: number): Promise<boolean> {
    const begun = performance.now();
    const list = await this.request("GET", "api/kernels", timeoutMs / 2).catch(() => undefined);
    const kernels = list?.status === 200 ? parseJson(list.body) : undefined;
    if (!Array.isArray(kernels)) return false;
    const ids = kernels.map((kernel: { id?: unknown }) => String(kernel.id));
    const left = timeoutMs - (performance.now() - begun);
    const answers = await Promise.all(
      ids.map((id) => this.request("DELETE", `api/kernels/${encodeURIComponent(id)}`, left).catch(() => undefined)),
    );
    return answers.every((answer) => answer?.status === 204 || answer?.status === 404);
  }

  /** Deletes every kernel that it has started at its gateway, there: it works without JupyterLab. False: some are left. */
  async #deleteRemoteKernels(timeoutMs: number): Promise<boolean> {
    const gateway = findGateway(this.options, this.#context.config);
    return gateway === undefined || (await releaseKernels(gateway, this.runtimeDir, timeoutMs, this.#context.log));
  }
}
