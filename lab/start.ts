/** One start: from the folder checks to a JupyterLab that answers, or to an error that explains why it does not. */
import { mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { PROGRAM_DIR } from "../config.ts";
import { errorCode, ServiceError } from "../lib/errors.ts";
import { readTextFile } from "../lib/files.ts";
import { type Exit, settlesWithin, spawnChild } from "../lib/spawn.ts";
import { loadClient, parseJson } from "./client.ts";
import { writeConnection } from "./connection.ts";
import type { Context } from "./context.ts";
import { checkFolders, makeRuntimeDir } from "./folders.ts";
import { askGateway, findGateway, type GatewayStatus } from "./gateway.ts";
import type { History } from "./history.ts";
import { Lab } from "./lab.ts";
import {
  buildEnv,
  buildLaunchSpec,
  type LaunchedProcess,
  type Report,
  readReports,
  type ServerInfo,
} from "./launch-spec.ts";
import type { LogFile } from "./log-file.ts";
import type { StartOptions } from "./options.ts";
import { makeToken, type Standby } from "./standby.ts";
import type { Running, Start } from "./state.ts";

/** The supervisor's parts that a start uses. */
export interface Services extends Context {
  standby: Standby;
  history: History;
}

const PROBE_TIMEOUT_MS = 5000;
const PROBE_PAUSE_MS = 10;
const LAUNCHER = join(PROGRAM_DIR, "python", "launcher.py");

/** The phase of a start that each of the launcher's reports ends. */
const PHASE_BY_REPORT: Record<string, string> = {
  imported: "import",
  configured: "configure",
  bound: "bind",
  plain: "import",
};

/** A warm process could not become JupyterLab. A cold start can. */
class StaleError extends Error {}

/**
 * Starts JupyterLab, asks its gateway at the same time, and writes the connection file. Rejects with a `ServiceError` that
 * explains the failure, or with the reason of `start.cancel`; then nothing is left running.
 */
export async function startServer(services: Services, start: Start): Promise<Running> {
  const { config, log } = services;
  const { options, token, byVisit, cancel, restarts, lastExit } = start;
  cancel.signal.throwIfAborted();
  log("info", "server starting", {
    base_url: options.baseUrl,
    notebook_dir: options.notebookDir,
    gateway: options.gatewayUrl,
    ...(byVisit ? { by_visit: true } : {}),
    restarts,
  });
  const gatewayFailure = new AbortController();
  const gatewayCheck = checkGateway(services, options, cancel.signal);
  gatewayCheck.catch((error) => gatewayFailure.abort(error));
  const lab = await launchLab(services, options, token, AbortSignal.any([cancel.signal, gatewayFailure.signal]));
  try {
    const gateway = await gatewayCheck;
    cancel.signal.throwIfAborted();
    const running: Running = { lab, gateway, startedAt: new Date().toISOString(), restarts, lastExit };
    writeConnection(config.connectionFile, running);
    const { pid, port } = lab.server;
    log("info", "server running", { pid, port, start_kind: lab.kind, ms: lab.times.total });
    return running;
  } catch (error) {
    lab.kill();
    await lab.clear(config.stopTimeoutMs, false);
    throw error;
  }
}

/**
 * The gateway's status; null without a gateway. Rejects if the start requires the gateway and kernels can't run there, and
 * with the reason of `signal`.
 */
async function checkGateway(
  { config, log }: Context,
  options: StartOptions,
  signal: AbortSignal,
): Promise<GatewayStatus | null> {
  const gateway = findGateway(options, config);
  if (!gateway) return null;
  const { status, code } = await askGateway(gateway, config, signal);
  signal.throwIfAborted();
  if (status.error) log("warn", "gateway not usable", { error: status.error });
  if (options.gatewayRequired && code) throw new ServiceError(code, status.error ?? code);
  return status;
}

/**
 * Starts JupyterLab in the fastest way that is ready: from an armed process, from the standby, or cold. Resolves once it
 * has answered an authenticated request under its base URL. `token` is the one that it must have; undefined: the options'
 * one, or a random one. Rejects with a `ServiceError` or with the reason of `signal`; then nothing is left running.
 */
async function launchLab(
  services: Services,
  options: StartOptions,
  token: string | undefined,
  signal: AbortSignal,
): Promise<Lab> {
  const { config, logFile, standby, log } = services;
  const startedAt = performance.now();
  checkFolders(config, options);
  const wantedToken = token ?? options.token;
  const stderr = openLogFile(logFile);
  const logMark = logFile.mark();
  const warm = standby.acquire(options, wantedToken);
  if (warm) {
    try {
      return await awaitReady(services, new Lab(services, warm, options, logMark), warm.reports, startedAt, signal);
    } catch (error) {
      if (!(error instanceof StaleError)) throw error;
      log("info", "standby not used", { kind: warm.kind, reason: error.message });
    }
  }
  signal.throwIfAborted();
  const cold = await spawnCold(services, options, wantedToken ?? makeToken(), stderr);
  return await awaitReady(services, new Lab(services, cold, options, logMark), cold.reports, startedAt, signal);
}

/** Spawns the launcher. Rejects with `jupyter_not_found` if there is no Python. */
async function spawnCold(
  context: Context,
  options: StartOptions,
  token: string,
  stderr: number,
): Promise<LaunchedProcess> {
  const { config, secrets } = context;
  const runtimeDir = makeRuntimeDir(config);
  try {
    if (options.safeMode) mkdirSync(join(runtimeDir, "safe-mode"));
    const env = buildEnv(options, runtimeDir, config);
    const spec = buildLaunchSpec(options, token, secrets.values(), config);
    const child = await spawnChild([config.python, "-u", LAUNCHER], { cwd: options.notebookDir, env, stderr });
    child.write(`${JSON.stringify(spec)}\n`);
    child.closeInput();
    void loadClient();
    return { kind: "cold", child, reports: readReports(child), runtimeDir, token };
  } catch (error) {
    rmSync(runtimeDir, { recursive: true, force: true });
    throw explainSpawnError(error, config.python);
  }
}

/** A race of four: JupyterLab answers, its process ends, the deadline passes, or the start is cancelled. */
async function awaitReady(
  services: Services,
  lab: Lab,
  reports: AsyncIterator<Report>,
  startedAt: number,
  signal: AbortSignal,
): Promise<Lab> {
  const { startTimeoutMs } = services.config;
  const timeout = new AbortController();
  const abort = AbortSignal.any([signal, timeout.signal]);
  const timer = setTimeout(
    () => {
      const limit = `${startTimeoutMs / 1000} s (START_TIMEOUT_S)`;
      timeout.abort(new ServiceError("start_timeout", `JupyterLab did not answer within ${limit}`));
    },
    startTimeoutMs - (performance.now() - startedAt),
  );
  const lost = Promise.withResolvers<never>();
  lost.promise.catch(() => {});
  const onAbort = () => lost.reject(abort.reason);
  abort.addEventListener("abort", onAbort, { once: true });
  if (abort.aborted) onAbort();
  lab.exited.then((exit) => lost.reject(exit));
  try {
    const recordPhase = (phase: string) =>
      lab.recordPhase(phase, startedAt, (...event) => services.history.recordPhase(...event));
    lab.info = await Promise.race([
      awaitBound(lab, reports, abort, recordPhase, services.pauses.firstReportMs),
      lost.promise,
    ]);
    await Promise.race([probe(lab, abort), lost.promise]);
    recordPhase("answer");
    lab.times.total = Math.round((performance.now() - startedAt) * 10) / 10;
    return lab;
  } catch (reason) {
    throw await explainFailure(services, lab, reason);
  } finally {
    abort.removeEventListener("abort", onAbort);
    clearTimeout(timer);
  }
}

/** Ends a start that failed, and explains it: by the process's own exit if it has ended, since that tells the most. */
async function explainFailure(context: Context, lab: Lab, reason: unknown): Promise<Error> {
  const endedItself = isExit(reason);
  lab.kill();
  const killed = await lab.exited;
  const { at: _at, code, message, ...failure } = lab.explain(endedItself ? reason : killed);
  await lab.clear(context.config.stopTimeoutMs, false);
  if (reason instanceof StaleError) return reason;
  if (endedItself && lab.kind !== "cold" && reason.signal)
    return new StaleError(`it ended with signal ${reason.signal}`);
  if (endedItself) return new ServiceError(code ?? "crashed", message, failure);
  if (reason instanceof ServiceError) {
    return new ServiceError(reason.code, lab.advise(reason.code, reason.message, killed), failure, reason);
  }
  return new ServiceError("internal", "The start failed unexpectedly", failure, reason);
}

/** Follows the reports until the port is bound. They end with the process, so this needs no deadline of its own. */
async function awaitBound(
  lab: Lab,
  reports: AsyncIterator<Report>,
  signal: AbortSignal,
  recordPhase: (phase: string) => void,
  firstReportMs: number,
): Promise<ServerInfo> {
  recordPhase(lab.kind === "cold" ? "spawn" : "handover");
  for (let isFirst = true; ; isFirst = false) {
    const next = reports.next();
    if (isFirst && lab.kind !== "cold" && !(await settlesWithin(next, firstReportMs)))
      throw new StaleError(`it reported nothing within ${firstReportMs / 1000} s`);
    const { value, done } = await next;
    // The pipe ends a moment before the exit that explains it.
    if (done || !value) return new Promise<never>(() => {});
    if (value.phase === "stale") throw new StaleError(value.reason ?? "what it had read has changed");
    const phase = PHASE_BY_REPORT[value.phase];
    if (phase) recordPhase(phase);
    if (value.server) return value.server;
    if (value.phase === "plain") return await awaitServerFile(lab, signal);
  }
}

/** Without the launcher's hooks JupyterLab still writes the file that every Jupyter server writes. */
async function awaitServerFile(lab: Lab, signal: AbortSignal): Promise<ServerInfo> {
  const path = join(lab.runtimeDir, `jpserver-${lab.pid}.json`);
  while (!signal.aborted) {
    const info = parseJson(readTextFile(path));
    if (info) return info as ServerInfo;
    await sleep(PROBE_PAUSE_MS);
  }
  return new Promise<never>(() => {});
}

/** Sends the request that a user's browser sends, until JupyterLab accepts it. */
async function probe(lab: Lab, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    const answer = await lab.request("GET", "api/me", PROBE_TIMEOUT_MS, signal).catch(() => undefined);
    if (answer?.status === 200) return;
    if (answer && answer.status < 500) {
      throw new ServiceError(
        "config_error",
        `JupyterLab does not accept its own token (status ${answer.status} at ${lab.server.base_url}api/me); a configuration file or a setting changes how it identifies users`,
      );
    }
    await sleep(PROBE_PAUSE_MS);
  }
}

function isExit(reason: unknown): reason is Exit {
  return typeof reason === "object" && reason !== null && !(reason instanceof Error) && "signal" in reason;
}

function openLogFile(logFile: LogFile): number {
  try {
    return logFile.open();
  } catch (error) {
    const message = `LOG_FILE must be a writable file; ${logFile.path} is not (${errorCode(error)})`;
    throw new ServiceError("permission_denied", message, {}, error);
  }
}

function explainSpawnError(error: unknown, python: string): ServiceError {
  const code = errorCode(error);
  const advice = "set PYTHON to a Python that has JupyterLab";
  if (error instanceof ServiceError) return error;
  if (code === "ENOENT")
    return new ServiceError("jupyter_not_found", `There is no Python at ${python}; ${advice}`, {}, error);
  if (code === "EACCES")
    return new ServiceError("jupyter_not_found", `${python} can't be executed; ${advice}`, {}, error);
  return new ServiceError("internal", "The start failed unexpectedly", {}, error);
}
