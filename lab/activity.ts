/** What JupyterLab is doing (kernels, terminals, requests, transfers), and the rule that decides whether it is busy or idle. */
import { setTimeout as sleep } from "node:timers/promises";
import { listShells } from "../lib/procfs.ts";
import { parseJson } from "../lib/values.ts";
import type { Answer } from "./client.ts";
import type { Lab } from "./lab.ts";
import type { Activity } from "./schemas.ts";
import type { Running, State } from "./state.ts";
import type { Transfers } from "./transfers.ts";

/** Deadline of JupyterLab's answers. A missing answer counts as busy. */
const ASK_TIMEOUT_MS = 2000;
/** An idle JupyterLab is checked ten times within its idle timeout, within these bounds. */
const MIN_CHECK_PAUSE_MS = 200;
const MAX_CHECK_PAUSE_MS = 30_000;
const CHECKS = 10;
/** Time that passes beyond a pause and its check: the container was frozen, the machine slept, or the clock was set. */
const LOST_TIME_MS = 2 * ASK_TIMEOUT_MS;

/** A computing process uses several clock ticks (10 ms each) in this time. */
const CPU_SAMPLE_MS = 200;

/** States of a kernel that is not working. `starting` is one, because a kernel without a client can stay in it for ever. */
const IDLE_STATES = new Set(["idle", "starting", "restarting", "autorestarting", "terminating", "dead"]);

/**
 * Requests that an open tab sends by itself, by the name of JupyterLab's handler, and the control API's own requests. They
 * are not activity. The list was observed in Chromium with an open notebook for 150 s: the first six names appeared about
 * 15 times each, the others once or twice.
 */
// biome-ignore format: a table of names reads best in rows
const POLLED_BY_TABS = new Set([
  "ContentsHandler", "MainKernelHandler", "SessionRootHandler", "TerminalRootHandler", "WorkspacesHandler",
  "IdentityHandler", "MainKernelSpecHandler", "CheckpointsHandler", "NbconvertRootHandler", "SubscribeWebsocket",
  "KernelHandler", "KernelWebsocketHandler", "APIStatusHandler", "APIVersionHandler", "PrometheusMetricsHandler",
]);
/** A tab also saves its layout every ten seconds. */
const SAVED_BY_TABS = new Set(["WorkspacesHandler"]);
/** What JupyterLab also serves without a login, to probes for example: its static files, and the page to log in. */
// biome-ignore format: a table of names reads best in rows
const PUBLIC = new Set([
  "FileFindHandler", "ThemesHandler", "StaticFileHandler", "PublicStaticFileHandler",
  "LoginFormHandler", "LegacyLoginHandler", "LogoutHandler",
]);
/** Jupyter's own: handlers of extensions often have the same last name. */
const FRONT_PAGE = "jupyter_server.base.handlers.MainHandler";

/** What is remembered of a JupyterLab between two checks. Times are milliseconds since 1970. */
interface Memory {
  requests: number;
  /** Jupyter's own `last_activity`. */
  lastAt: number;
  activeAt: number;
  /** Processor time of the terminals' processes, by pid. */
  cpuTicks: Map<number, number>;
}

/** Checks the activity of JupyterLabs. A check is not activity itself, and simultaneous checks share one. */
export class ActivityMonitor {
  #memories = new WeakMap<Lab, Memory>();
  #checks = new WeakMap<Lab, Promise<Activity>>();
  #transfers: Transfers;

  constructor(transfers: Transfers) {
    this.#transfers = transfers;
  }

  /** The current activity of a server. Never rejects, and takes at most 2.2 s: 2 s for answers, 0.2 s for terminals. */
  check(running: Running): Promise<Activity> {
    const { lab } = running;
    const pending = this.#checks.get(lab);
    if (pending) return pending;
    const check = this.#ask(running).finally(() => this.#checks.delete(lab));
    this.#checks.set(lab, check);
    return check;
  }

  /**
   * Resolves once a server has been idle for this long; with undefined if it ends before that. Time in which nothing ran,
   * this program included, is not idle time.
   */
  async awaitIdle(running: Running, timeoutMs: number): Promise<Activity | undefined> {
    const ended = new AbortController();
    running.lab.exited.then(() => ended.abort());
    const longest = Math.min(Math.max(timeoutMs / CHECKS, MIN_CHECK_PAUSE_MS), MAX_CHECK_PAUSE_MS);
    for (let pauseMs = longest, checkedAt = Date.now(); ; ) {
      await sleep(pauseMs, undefined, { signal: ended.signal, ref: false }).catch(() => {});
      if (ended.signal.aborted) return undefined;
      const activity = await this.check(running);
      const lostMs = Date.now() - checkedAt - pauseMs;
      checkedAt = Date.now();
      if (lostMs > LOST_TIME_MS) {
        this.#postpone(running.lab, lostMs);
        pauseMs = longest;
        continue;
      }
      const leftMs = timeoutMs - activity.idle_seconds * 1000;
      if (!activity.busy && leftMs <= 0) return activity;
      pauseMs = activity.busy ? longest : Math.min(longest, Math.max(leftMs, MIN_CHECK_PAUSE_MS));
    }
  }

  #postpone(lab: Lab, lostMs: number): void {
    const memory = this.#memories.get(lab);
    if (memory) memory.activeAt = Math.min(Date.now(), memory.activeAt + lostMs);
  }

  async #ask({ lab, startedAt, gateway }: Running): Promise<Activity> {
    const get = (path: string) => lab.request("GET", path, ASK_TIMEOUT_MS).catch(() => undefined);
    const [kernelAnswer, terminalAnswer, metricsAnswer] = await Promise.all([
      // JupyterLab can't get an answer from the gateway either, and would fill its log with errors.
      gateway?.error ? undefined : get("api/kernels"),
      get("api/terminals"),
      get("metrics"),
    ]);
    const kernels = kernelAnswer?.status === 200 ? readKernels(kernelAnswer.body) : undefined;
    // With terminals disabled this path does not exist.
    const terminalBody = terminalAnswer?.status === 404 ? "[]" : terminalAnswer?.status === 200 && terminalAnswer.body;
    const bornAt = Date.parse(startedAt);
    const memory = this.#memories.get(lab) ?? { requests: 0, lastAt: bornAt, activeAt: bornAt, cpuTicks: new Map() };
    this.#memories.set(lab, memory);
    const terminals = terminalBody ? await readTerminals(terminalBody, lab.pid, memory) : undefined;
    const traffic = metricsAnswer?.status === 200 ? readTraffic(metricsAnswer.body) : undefined;
    const unknown = describeUnknown([
      ["its kernels", kernels, gateway?.error ?? describeMissing(kernelAnswer)],
      ["its terminals", terminals, describeMissing(terminalAnswer)],
      ["its requests", traffic, describeMissing(metricsAnswer)],
    ]);
    const isBusy =
      unknown !== null ||
      kernels?.some(({ state }) => !IDLE_STATES.has(state)) ||
      terminals?.some(({ busy }) => busy) ||
      this.#transfers.areMoving;
    const now = Date.now();
    const times = [...(kernels ?? []), ...(terminals ?? [])].map(({ last_activity }) => Date.parse(last_activity));
    if (isBusy && unknown === null) times.push(now);
    if (traffic) {
      const { requests, lastAt } = traffic;
      if (requests === undefined) times.push(lastAt);
      // The page and files do not move Jupyter's time. Of such a request it is known only that the last check did not see it.
      else if (requests !== memory.requests) times.push(lastAt > memory.lastAt ? lastAt : now);
      Object.assign(memory, { requests: requests ?? 0, lastAt });
    }
    // The clock of the gateway's machine may be ahead.
    memory.activeAt = Math.min(now, Math.max(memory.activeAt, ...times.filter(Number.isFinite)));
    return {
      state: "running",
      busy: isBusy,
      idle_seconds: isBusy ? 0 : Math.round((now - memory.activeAt) / 100) / 10,
      last_activity: new Date(memory.activeAt).toISOString(),
      connections: (kernels ?? []).reduce((sum, { connections }) => sum + connections, 0),
      kernels: kernels ?? [],
      terminals: terminals ?? [],
      unknown,
    };
  }
}

/** The activity when no JupyterLab runs. */
export function describeNoActivity(state: State["state"]): Activity {
  const nothing = { connections: 0, kernels: [], terminals: [], unknown: null };
  return { state, busy: false, idle_seconds: 0, last_activity: null, ...nothing };
}

/** Why a server counts as busy, as the end of a sentence. */
export function describeBusy({ unknown, kernels, terminals }: Activity): string {
  if (unknown) return unknown;
  const working = kernels.filter(({ state }) => !IDLE_STATES.has(state)).length;
  const running = terminals.filter(({ busy }) => busy).length;
  if (working + running === 0) return "an upload or download is in progress";
  const parts = [countOf(working, "kernel"), countOf(running, "terminal")].filter(Boolean);
  return `${parts.join(" and ")} ${working + running === 1 ? "is" : "are"} busy`;
}

function countOf(count: number, noun: string): string {
  return count === 0 ? "" : `${count} ${noun}${count === 1 ? "" : "s"}`;
}

function describeUnknown(parts: [what: string, known: unknown, reason: string][]): string | null {
  const lost = parts.filter(([, known]) => known === undefined);
  if (lost.length === 0) return null;
  return `JupyterLab did not report ${lost.map(([what, , reason]) => `${what} (${reason})`).join(", ")}`;
}

function describeMissing(answer: Answer | undefined): string {
  if (answer === undefined) return `no answer within ${ASK_TIMEOUT_MS / 1000} s`;
  return answer.status === 200 ? "an answer that can't be read" : `status ${answer.status}`;
}

function readKernels(body: string): Activity["kernels"] | undefined {
  const models = parseJson(body);
  if (!Array.isArray(models)) return undefined;
  return models.map((model) => ({
    id: String(model?.id),
    name: String(model?.name),
    state: String(model?.execution_state),
    last_activity: toTime(model?.last_activity),
    connections: Number(model?.connections) || 0,
  }));
}

/**
 * JupyterLab lists terminals in the order of their creation, which is the order of their shells. While one is starting or
 * ending the numbers differ; then every terminal is busy if any shell is.
 */
async function readTerminals(body: string, labPid: number, memory: Memory): Promise<Activity["terminals"] | undefined> {
  const models = parseJson(body);
  if (!Array.isArray(models)) return undefined;
  const working = models.length > 0 ? await checkShells(labPid, memory) : [];
  if (models.length > 0 && working.length === 0) return undefined;
  return models.map((model, index) => ({
    name: String(model?.name),
    last_activity: toTime(model?.last_activity),
    busy: working.length === models.length ? (working[index] ?? false) : working.includes(true),
  }));
}

/**
 * Whether each shell is at work: a program is in its foreground, or a process of its session has used processor time since
 * the last check. A helper that only sleeps in the background is no work. Empty if that is not known.
 */
async function checkShells(labPid: number, memory: Memory): Promise<boolean[]> {
  try {
    let shells = listShells(labPid);
    const before = new Map([...shells.flatMap(({ cpuTicks }) => [...cpuTicks]), ...memory.cpuTicks]);
    // A process that is new since the last check has to be looked at twice.
    if (
      shells.some(({ pid, cpuTicks }) => [...cpuTicks.keys()].some((one) => one !== pid && !memory.cpuTicks.has(one)))
    ) {
      await sleep(CPU_SAMPLE_MS);
      shells = listShells(labPid);
    }
    memory.cpuTicks = new Map(shells.flatMap(({ cpuTicks }) => [...cpuTicks]));
    return shells.map(
      ({ hasForegroundJob, cpuTicks }) =>
        hasForegroundJob || [...cpuTicks].some(([pid, ticks]) => ticks > (before.get(pid) ?? ticks)),
    );
  } catch {
    return [];
  }
}

/**
 * The number of requests in JupyterLab's own metrics, without those that an open tab sends by itself, those that need no
 * login, and websockets; and Jupyter's own time of the last activity, of any kind. If JupyterLab does not count requests,
 * that time is all there is.
 */
function readTraffic(text: string): { requests: number | undefined; lastAt: number } | undefined {
  const gauge = /^jupyter_server_last_activity_timestamp_seconds ([\d.e+]+)$/m.exec(text)?.[1];
  if (gauge === undefined) return undefined;
  const lastAt = Number(gauge) * 1000;
  const counters = [...text.matchAll(/^http_request_duration_seconds_count\{(.*)\} ([\d.e+]+)$/gm)];
  if (counters.length === 0) return { requests: undefined, lastAt };
  let requests = 0;
  for (const [, labels = "", count] of counters) {
    const method = /method="(\w+)"/.exec(labels)?.[1] ?? "";
    const name = /handler="([^"]*)"/.exec(labels)?.[1] ?? "";
    const handler = name.slice(name.lastIndexOf(".") + 1);
    const isPublic = PUBLIC.has(handler) || name === FRONT_PAGE;
    const isDone = /status_code="(2..|304)"/.test(labels) && method !== "OPTIONS" && !isPublic;
    if (isDone && !(method === "GET" ? POLLED_BY_TABS : SAVED_BY_TABS).has(handler)) requests += Number(count);
  }
  return { requests, lastAt };
}

/** Jupyter's times have microseconds. A missing time becomes 1970, which is never the latest activity. */
function toTime(value: unknown): string {
  const time = typeof value === "string" ? Date.parse(value) : Number.NaN;
  return new Date(Number.isFinite(time) ? time : 0).toISOString();
}
