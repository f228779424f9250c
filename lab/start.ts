/** One start: from the folder checks to a JupyterLab that answers, or to an error that explains why it does not. */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { type Config, PROGRAM_DIR } from "../config.ts";
import { errorCode, explainShortage, ServiceError } from "../lib/errors.ts";
import { spawnChild } from "../lib/spawn.ts";
import { loadClient } from "./client.ts";
import { writeConnection } from "./connection.ts";
import type { Context } from "./context.ts";
import { checkFolders, makeRuntimeDir, removeRuntimeDir } from "./folders.ts";
import { askGateway, findGateway, requireGatewayFiles } from "./gateway.ts";
import type { History } from "./history.ts";
import { Lab, type OnPhase } from "./lab.ts";
import { buildEnv, buildLaunchSpec, findSafeModeDir, type LaunchedProcess, readReports } from "./launch-spec.ts";
import type { LogFile } from "./log-file.ts";
import type { StartOptions } from "./options.ts";
import { awaitReady } from "./readiness.ts";
import type { GatewayStatus } from "./schemas.ts";
import type { Standby } from "./standby.ts";
import type { Running, Start } from "./state.ts";
import type { Transfers } from "./transfers.ts";
import { makeToken, StaleError } from "./zygote.ts";

/** The supervisor's parts that a start uses. */
export interface Services extends Context {
  standby: Standby;
  history: History;
  transfers: Transfers;
}

const LAUNCHER = join(PROGRAM_DIR, "python", "launcher.py");

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
    await lab.clear();
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
  requireGatewayFiles(gateway);
  const { status, code } = await askGateway(gateway, config, signal);
  signal.throwIfAborted();
  if (status.error) log("warn", "gateway not usable", { error: status.error });
  if (options.gatewayRequired && code) throw new ServiceError(code, status.error ?? code);
  return status;
}

/**
 * Starts JupyterLab in the fastest way that works: from an armed process, by a fork of the zygote, or cold. Resolves once it
 * has answered an authenticated request under its base URL. `token` is the one that it must have; undefined: the options'
 * one, or a random one. Rejects with a `ServiceError` or with the reason of `cancelled`; then nothing is left running.
 */
async function launchLab(
  services: Services,
  options: StartOptions,
  token: string | undefined,
  cancelled: AbortSignal,
): Promise<Lab> {
  const { config, logFile, standby, log } = services;
  const startedAt = performance.now();
  using deadline = startDeadline(config);
  const signal = AbortSignal.any([cancelled, deadline.signal]);
  checkFolders(config, options);
  const wantedToken = token ?? options.token;
  const stderr = openLogFile(logFile);
  const position = { mark: logFile.mark(), offset: logFile.offset };
  const ready = (launched: LaunchedProcess) => {
    const onPhase: OnPhase = (...event) => services.history.recordPhase(...event);
    const lab = new Lab(services, launched, options, position);
    return awaitReady(services, lab, { reports: launched.reports, startedAt, signal, onPhase });
  };
  for (const kind of ["armed", "standby"] as const) {
    try {
      const warm = await standby.acquire(kind, options, wantedToken, signal);
      if (warm) return await ready(warm);
    } catch (error) {
      if (!(error instanceof StaleError)) throw error;
      if (kind === "standby" && error.renew) await standby.renew(options);
      if (!signal.aborted) log("info", "standby not used", { kind, reason: error.message });
    }
    signal.throwIfAborted();
  }
  const cold = await spawnCold(services, options, wantedToken ?? makeToken(), stderr);
  return await ready(cold);
}

/** A signal that comes when a start has taken too long, unless it is disposed of before. */
function startDeadline({ startTimeoutMs }: Config): Disposable & { signal: AbortSignal } {
  const timeout = new AbortController();
  const message = `JupyterLab did not answer within ${startTimeoutMs / 1000} s (START_TIMEOUT_S)`;
  const timer = setTimeout(() => timeout.abort(new ServiceError("start_timeout", message)), startTimeoutMs);
  return { signal: timeout.signal, [Symbol.dispose]: () => clearTimeout(timer) };
}

/** Spawns the launcher. Rejects with `jupyter_not_found` if there is no Python. */
async function spawnCold(
  context: Context,
  options: StartOptions,
  token: string,
  stderr: number,
): Promise<LaunchedProcess> {
  const { config, secrets } = context;
  const runtimeDir = makeRuntimeDir(config, token);
  try {
    if (options.safeMode) mkdirSync(findSafeModeDir(runtimeDir));
    const env = buildEnv(options, runtimeDir, config);
    const secret = makeToken();
    const spec = buildLaunchSpec(options, token, secret, runtimeDir, secrets.values(), config);
    const child = await spawnChild([config.python, "-u", LAUNCHER], { cwd: options.notebookDir, env, stderr });
    child.write(`${JSON.stringify(spec)}\n`);
    child.closeInput();
    void loadClient();
    return { kind: "cold", child, reports: readReports(child), runtimeDir, token, secret };
  } catch (error) {
    removeRuntimeDir(runtimeDir, context.log);
    throw explainSpawnError(error, config.python);
  }
}

function openLogFile(logFile: LogFile): number {
  try {
    return logFile.open();
  } catch (error) {
    const code = errorCode(error);
    const shortage = explainShortage(error, `LOG_FILE ${logFile.path} can't be opened`);
    if (shortage) throw shortage;
    const message = `LOG_FILE must be a writable file; ${logFile.path} is not (${code})`;
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
  const shortage = explainShortage(error, "JupyterLab can't be started");
  return shortage ?? new ServiceError("internal", "The start failed unexpectedly", {}, error);
}
