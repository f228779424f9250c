/** The wait for a process to become a JupyterLab that answers, and the explanation if it does not. */
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Value } from "@sinclair/typebox/value";
import { describeExit, errorCode, ServiceError } from "../lib/errors.ts";
import { readTextFile } from "../lib/files.ts";
import { type Exit, KILLED, settlesWithin } from "../lib/spawn.ts";
import { parseJson } from "../lib/values.ts";
import type { Context } from "./context.ts";
import { type Lab, MIN_KILL_MS, type OnPhase } from "./lab.ts";
import { type Report, ServerInfo } from "./launch-spec.ts";
import { describeWarnings } from "./settings.ts";
import { requireFresh, StaleError } from "./zygote.ts";

/** The end of a process may be known before its last report has been read. */
const LAST_REPORT_TIMEOUT_MS = 250;
const PROBE_TIMEOUT_MS = 5000;
const PROBE_PAUSE_MS = 10;
/** Errors of a server that does not answer yet, and of this program itself. Any other one is an answer of a kind. */
const NO_ANSWER = new Set(["ECONNREFUSED", "ETIMEDOUT", "EMFILE", "ENFILE", "EAGAIN"]);
/** Consecutive failures after which a server is given up, and the pause after each. */
const MAX_FAILURES = 5;
const FAILURE_PAUSE_MS = 50;
/** What asyncio logs when a connection's handler has failed. */
const UNHANDLED = /^Exception in callback /;
const UNHANDLED_POLL_MS = 50;

/** The phase of a start that each of the launcher's reports ends. */
const PHASE_BY_REPORT: Record<string, string> = {
  imported: "import",
  configured: "configure",
  bound: "bind",
};

/** A launch that is in progress. */
interface Launch {
  reports: AsyncIterator<Report>;
  startedAt: number;
  /** Its cancellation, and its deadline. */
  signal: AbortSignal;
  onPhase: OnPhase;
}

/** A race of three: JupyterLab answers, its process ends, or the signal comes. */
export async function awaitReady(context: Context, lab: Lab, launch: Launch): Promise<Lab> {
  const { reports, startedAt, signal, onPhase } = launch;
  const lost = Promise.withResolvers<never>();
  lost.promise.catch(() => {});
  const onAbort = () => lost.reject(signal.reason);
  signal.addEventListener("abort", onAbort, { once: true });
  if (signal.aborted) onAbort();
  const reported = Promise.withResolvers<void>();
  lab.exited.then(async (exit) => {
    await settlesWithin(reported.promise, LAST_REPORT_TIMEOUT_MS);
    lost.reject(exit);
  });
  try {
    const recordPhase = (phase: string) => lab.recordPhase(phase, startedAt, onPhase);
    const { firstReportMs } = context.pauses;
    const bound = awaitBound(lab, reports, signal, { recordPhase, onEnd: reported.resolve, firstReportMs });
    lab.info = await Promise.race([bound, lost.promise]);
    await Promise.race([probe(lab, signal), lost.promise]);
    lab.times.total = recordPhase("answer");
    return lab;
  } catch (reason) {
    throw await explainFailure(lab, reason);
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}

/** Ends a start that failed, and explains it: by the process's own exit if it has ended, since that tells the most. */
async function explainFailure(lab: Lab, reason: unknown): Promise<Error> {
  const endedItself = isExit(reason);
  lab.kill();
  // A process that waits for a disk that is gone does not end on a signal: `clear` logs it.
  const killed = (await settlesWithin(lab.exited, MIN_KILL_MS)) ? await lab.exited : KILLED;
  const { at: _at, code, message, ...failure } = lab.explain(endedItself ? reason : killed);
  await lab.clear();
  if (reason instanceof StaleError) return reason;
  if (endedItself && lab.kind !== "cold" && reason.code === null)
    return new StaleError(`it ended with ${describeExit(reason)}`, true);
  if (endedItself) return new ServiceError(code ?? "crashed", message, failure);
  if (reason instanceof ServiceError) {
    return new ServiceError(reason.code, lab.advise(reason.code, reason.message, killed), failure, reason);
  }
  return new ServiceError("internal", "The start failed unexpectedly", failure, reason);
}

/** What is done while the reports are followed. */
interface Following {
  recordPhase: (phase: string) => void;
  /** No further report comes. */
  onEnd: () => void;
  firstReportMs: number;
}

/** Follows the reports until the port is bound. They end with the process, so this needs no deadline of its own. */
async function awaitBound(
  lab: Lab,
  reports: AsyncIterator<Report>,
  signal: AbortSignal,
  { recordPhase, onEnd, firstReportMs }: Following,
): Promise<ServerInfo> {
  recordPhase(lab.kind === "cold" ? "spawn" : "handover");
  for (let isFirst = true; ; isFirst = false) {
    const next = reports.next();
    if (isFirst && lab.kind !== "cold" && !(await settlesWithin(next, firstReportMs)))
      throw new StaleError(`it reported nothing within ${firstReportMs / 1000} s`, true);
    const { value, done } = await next;
    if (done || !value) {
      // The exit explains it.
      onEnd();
      return new Promise<never>(() => {});
    }
    requireFresh(value);
    const phase = PHASE_BY_REPORT[value.phase];
    if (phase) recordPhase(phase);
    if (value.refusal) lab.refusal = value.refusal;
    if (value.server) {
      lab.assetFolders = value.asset_folders ?? [];
      lab.warnings = [...describeWarnings(value.unknown, value.overridden), ...describeWrapper(lab, value.server)];
      return value.server;
    }
    if (value.phase === "plain") {
      void reports.next().then(({ value: last }) => {
        if (last?.refusal) lab.refusal = last.refusal;
        onEnd();
      });
      return await awaitServerFile(lab, signal);
    }
  }
}

/** A recovery and the activity look at the process that was started, which has to be JupyterLab's own. */
function describeWrapper({ pid }: Lab, server: ServerInfo): string[] {
  if (server.pid === pid) return [];
  return [
    `PYTHON is a wrapper that stays alive while JupyterLab (pid ${server.pid}) runs. End it with exec; otherwise JupyterLab can't be recovered and its terminals always count as busy.`,
  ];
}

/** Without the launcher's hooks JupyterLab still writes the file that every Jupyter server writes. */
async function awaitServerFile(lab: Lab, signal: AbortSignal): Promise<ServerInfo> {
  const path = join(lab.runtimeDir, `jpserver-${lab.pid}.json`);
  while (!signal.aborted) {
    const info = parseJson(readTextFile(path));
    if (Value.Check(ServerInfo, info)) return info;
    await sleep(PROBE_PAUSE_MS);
  }
  return new Promise<never>(() => {});
}

/**
 * Sends the request that a user's browser sends, until JupyterLab accepts it. A server that listens answers, if late: one
 * that refuses the token, or answers with errors only, will not become better.
 */
async function probe(lab: Lab, signal: AbortSignal): Promise<void> {
  for (let failures = 0; !signal.aborted; ) {
    const ended = new AbortController();
    const answer = await Promise.race([
      lab.request("GET", "api/me", PROBE_TIMEOUT_MS, AbortSignal.any([signal, ended.signal])).catch(errorCode),
      awaitUnhandled(lab, ended.signal),
    ]);
    ended.abort();
    if (signal.aborted) return;
    const status = typeof answer === "string" ? 0 : answer.status;
    if (status === 200) return;
    if (status > 0 && status < 500) {
      throw new ServiceError(
        "config_error",
        `JupyterLab refuses the control API's own request (status ${status} at ${lab.server.base_url}api/me)`,
      );
    }
    const isUnanswered = typeof answer === "string" && NO_ANSWER.has(answer);
    failures = isUnanswered ? 0 : failures + 1;
    if (failures >= MAX_FAILURES) throw describeBroken(lab, typeof answer === "string" ? answer : `status ${status}`);
    await sleep(failures > 0 ? FAILURE_PAUSE_MS : PROBE_PAUSE_MS);
  }
}

/**
 * Resolves when JupyterLab logs that a connection's handler has failed: it does not close such a connection, as with a
 * certificate that does not load.
 */
async function awaitUnhandled(lab: Lab, signal: AbortSignal): Promise<string> {
  const before = lab.countLogged(UNHANDLED);
  while (!signal.aborted) {
    await sleep(UNHANDLED_POLL_MS);
    if (lab.countLogged(UNHANDLED) > before) return "no answer";
  }
  return "";
}

function describeBroken(lab: Lab, answer: string): ServiceError {
  const reason = lab.findLoggedError();
  const log = reason ? `; its log says: ${reason}` : "";
  return new ServiceError(
    "config_error",
    `JupyterLab answers every request with an error (${answer} at ${lab.server.base_url}api/me)${log}`,
  );
}

function isExit(reason: unknown): reason is Exit {
  return typeof reason === "object" && reason !== null && !(reason instanceof Error) && "signal" in reason;
}
