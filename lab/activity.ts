/** What JupyterLab is doing: kernels, terminals and requests, and the one rule that says whether it is busy or idle. */
import { setTimeout as sleep } from "node:timers/promises";
import { listShells } from "../lib/spawn.ts";
import { type Answer, parseJson } from "./client.ts";
import type { Lab } from "./lab.ts";
import type { Running, State } from "./state.ts";

export interface KernelActivity {
  id: string;
  name: string;
  /** Jupyter's `execution_state`. */
  state: string;
  last_activity: string;
  /** Websockets that are open to it. */
  connections: number;
}

export interface TerminalActivity {
  name: string;
  /** When it last printed something. */
  last_activity: string;
  /** Whether its shell runs a program, in the foreground or behind. */
  busy: boolean;
}

/** What `GET /api/servers/activity` tells. */
export interface Activity {
  state: State["state"];
  busy: boolean;
  /** Seconds since the last sign of life; 0 while it is busy, and where no JupyterLab runs. */
  idle_seconds: number;
  /** The last sign of life; null where no JupyterLab runs. */
  last_activity: string | null;
  connections: number;
  kernels: KernelActivity[];
  terminals: TerminalActivity[];
  /** What could not be asked, as a sentence: then it counts as busy. */
  unknown: string | null;
}

/** JupyterLab has this long for its answers; what takes longer counts as busy. */
const ASK_TIMEOUT_MS = 2000;
/** An idle JupyterLab is looked at ten times within the time it has, within these bounds. */
const MIN_LOOK_PAUSE_MS = 200;
const MAX_LOOK_PAUSE_MS = 30_000;
const LOOKS = 10;

/** States of a kernel that works on nothing: also `starting`, which one that nobody ever connects to is for ever. */
const RESTING = new Set(["idle", "starting", "restarting", "autorestarting", "terminating", "dead"]);

/**
 * What an open tab asks by itself, by JupyterLab's names (a quiet notebook in Chromium, watched for 150 s: each of the
 * first six some 15 times, the others once or twice), and what we ask ourselves: no sign of life.
 */
// biome-ignore format: a table of names reads best in rows
const READ_BY_TABS = new Set([
  "ContentsHandler", "MainKernelHandler", "SessionRootHandler", "TerminalRootHandler", "WorkspacesHandler",
  "IdentityHandler", "MainKernelSpecHandler", "CheckpointsHandler", "NbconvertRootHandler", "SubscribeWebsocket",
  "KernelHandler", "KernelWebsocketHandler", "APIStatusHandler", "APIVersionHandler", "PrometheusMetricsHandler",
]);
/** A tab also writes down how its panels stand, every ten seconds. */
const WRITTEN_BY_TABS = new Set(["WorkspacesHandler"]);

/** What is remembered of a JupyterLab between two looks at it. Times are milliseconds since 1970. */
interface Memory {
  requests: number;
  aliveAt: number;
}

/** Looks at JupyterLabs. Looking moves none of their clocks; looks at the same time are one. */
export class Watchman {
  #memories = new WeakMap<Lab, Memory>();
  #looks = new WeakMap<Lab, Promise<Activity>>();

  /** What a server does now. Never rejects, and takes at most two seconds. */
  look(running: Running): Promise<Activity> {
    const { lab } = running;
    const underWay = this.#looks.get(lab);
    if (underWay) return underWay;
    const look = this.#ask(running).finally(() => this.#looks.delete(lab));
    this.#looks.set(lab, look);
    return look;
  }

  /** Resolves once a server has been idle for this long; with undefined when it has ended before that. */
  async awaitIdle(running: Running, timeoutMs: number): Promise<Activity | undefined> {
    const ended = new AbortController();
    running.lab.exited.then(() => ended.abort());
    const longest = Math.min(Math.max(timeoutMs / LOOKS, MIN_LOOK_PAUSE_MS), MAX_LOOK_PAUSE_MS);
    for (let pauseMs = longest; ; ) {
      await sleep(pauseMs, undefined, { signal: ended.signal, ref: false }).catch(() => {});
      if (ended.signal.aborted) return undefined;
      const activity = await this.look(running);
      const leftMs = timeoutMs - activity.idle_seconds * 1000;
      if (!activity.busy && leftMs <= 0) return activity;
      pauseMs = activity.busy ? longest : Math.min(longest, Math.max(leftMs, MIN_LOOK_PAUSE_MS));
    }
  }

  async #ask({ lab, startedAt, gateway }: Running): Promise<Activity> {
    const get = (path: string) => lab.request("GET", path, ASK_TIMEOUT_MS).catch(() => undefined);
    const [kernelAnswer, terminalAnswer, meters] = await Promise.all([
      // JupyterLab would ask the gateway in vain, and fill its log with that.
      gateway?.error ? undefined : get("api/kernels"),
      get("api/terminals"),
      get("metrics"),
    ]);
    const kernels = kernelAnswer?.status === 200 ? readKernels(kernelAnswer.body) : undefined;
    // Without terminals there is nothing at that path.
    const terminalBody = terminalAnswer?.status === 404 ? "[]" : terminalAnswer?.status === 200 && terminalAnswer.body;
    const terminals = terminalBody ? readTerminals(terminalBody, lab.pid) : undefined;
    const traffic = meters?.status === 200 ? readTraffic(meters.body) : undefined;
    const unknown = tellUnknown([
      ["its kernels", kernels, gateway?.error ?? tellReason(kernelAnswer)],
      ["its terminals", terminals, tellReason(terminalAnswer)],
      ["its requests", traffic, tellReason(meters)],
    ]);
    const isBusy =
      unknown !== null ||
      kernels?.some(({ state }) => !RESTING.has(state)) ||
      terminals?.some(({ busy }) => busy) ||
      false;
    const now = Date.now();
    const memory = this.#memories.get(lab) ?? { requests: 0, aliveAt: Date.parse(startedAt) };
    this.#memories.set(lab, memory);
    const signs = [...(kernels ?? []), ...(terminals ?? [])].map(({ last_activity }) => Date.parse(last_activity));
    if (isBusy && unknown === null) signs.push(now);
    if (traffic && traffic.requests !== memory.requests) {
      memory.requests = traffic.requests;
      signs.push(traffic.lastAt);
    }
    // The clock of a gateway's machine may be ahead.
    memory.aliveAt = Math.min(now, Math.max(memory.aliveAt, ...signs.filter(Number.isFinite)));
    return {
      state: "running",
      busy: isBusy,
      idle_seconds: isBusy ? 0 : Math.round((now - memory.aliveAt) / 100) / 10,
      last_activity: new Date(memory.aliveAt).toISOString(),
      connections: (kernels ?? []).reduce((sum, { connections }) => sum + connections, 0),
      kernels: kernels ?? [],
      terminals: terminals ?? [],
      unknown,
    };
  }
}

/** The answer where no JupyterLab runs. */
export function describeAbsence(state: State["state"]): Activity {
  const nothing = { connections: 0, kernels: [], terminals: [], unknown: null };
  return { state, busy: false, idle_seconds: 0, last_activity: null, ...nothing };
}

/** Why a server is not idle, as the end of a sentence. */
export function tellBusiness({ unknown, kernels, terminals }: Activity): string {
  if (unknown) return unknown;
  const working = kernels.filter(({ state }) => !RESTING.has(state)).length;
  const running = terminals.filter(({ busy }) => busy).length;
  const parts = [working > 0 && `${working} of its kernels`, running > 0 && `${running} of its terminals`];
  return `${parts.filter(Boolean).join(" and ")} at work`;
}

function tellUnknown(parts: [what: string, known: unknown, reason: string][]): string | null {
  const lost = parts.filter(([, known]) => known === undefined);
  if (lost.length === 0) return null;
  return `JupyterLab could not be asked for ${lost.map(([what, , reason]) => `${what} (${reason})`).join(", ")}`;
}

function tellReason(answer: Answer | undefined): string {
  if (answer === undefined) return `no answer within ${ASK_TIMEOUT_MS / 1000} s`;
  return answer.status === 200 ? "an answer that can't be read" : `status ${answer.status}`;
}

function readKernels(body: string): KernelActivity[] | undefined {
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
 * JupyterLab lists terminals in the order of their making, and that is the order of their shells. Where their numbers
 * differ, because one is on its way or out, what is true of one shell is said of every terminal.
 */
function readTerminals(body: string, labPid: number): TerminalActivity[] | undefined {
  const models = parseJson(body);
  if (!Array.isArray(models)) return undefined;
  const shells = models.length > 0 ? listShells(labPid) : [];
  if (models.length > 0 && shells.length === 0) return undefined;
  const isAnyBusy = shells.some(({ busy }) => busy);
  return models.map((model, index) => ({
    name: String(model?.name),
    last_activity: toTime(model?.last_activity),
    busy: shells.length === models.length ? (shells[index]?.busy ?? false) : isAnyBusy,
  }));
}

/**
 * Requests that were made of JupyterLab, by its own meters, without those that an open tab makes by itself; and when the
 * last request of any kind was. Where it counts no requests every one of them is a sign of life.
 */
function readTraffic(text: string): { requests: number; lastAt: number } | undefined {
  const gauge = /^jupyter_server_last_activity_timestamp_seconds ([\d.e+]+)$/m.exec(text)?.[1];
  if (gauge === undefined) return undefined;
  const lastAt = Number(gauge) * 1000;
  const counters = [...text.matchAll(/^http_request_duration_seconds_count\{(.*)\} ([\d.e+]+)$/gm)];
  if (counters.length === 0) return { requests: lastAt, lastAt };
  let requests = 0;
  for (const [, labels = "", count] of counters) {
    const method = /method="(\w+)"/.exec(labels)?.[1] ?? "";
    const handler = /handler="(?:[^"]*\.)?([^".]*)"/.exec(labels)?.[1] ?? "";
    if (!(method === "GET" ? READ_BY_TABS : WRITTEN_BY_TABS).has(handler)) requests += Number(count);
  }
  return { requests, lastAt };
}

/** Jupyter's times have microseconds. One that is missing is the beginning of time: a sign of nothing. */
function toTime(value: unknown): string {
  const time = typeof value === "string" ? Date.parse(value) : Number.NaN;
  return new Date(Number.isFinite(time) ? time : 0).toISOString();
}
