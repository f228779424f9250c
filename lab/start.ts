/** One start: from a folder check to a JupyterLab that answers, or to an error that explains why it does not. */
import { mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { errorCode, PROGRAM_DIR } from "../config.ts";
import { ServiceError } from "../lib/errors.ts";
import { type Exit, readTextFile, settlesWithin, spawnChild } from "../lib/spawn.ts";
import { loadClient, parseJson } from "./client.ts";
import { writeConnection } from "./connection.ts";
import { checkFolders, makeRuntimeDir } from "./folders.ts";
import { askGateway, findGateway, type GatewayStatus } from "./gateway.ts";
import { type Context, Lab, type ServerInfo } from "./lab.ts";
import { buildEnv, buildOrder, type Report, readReports } from "./launch-spec.ts";
import type { Output } from "./log-file.ts";
import type { StartOptions } from "./options.ts";
import { type Handover, makeToken } from "./standby.ts";
import type { Running, Start } from "./state.ts";

const PROBE_TIMEOUT_MS = 5000;
const PROBE_PAUSE_MS = 10;
/** What is warm goes on at once: one that says nothing for this long, because something has stopped it, is given up. */
const HANDOVER_TIMEOUT_MS = 3000;
const LAUNCHER = join(PROGRAM_DIR, "python", "launcher.py");

/** The launcher's reports, and the phase of the start that each one ends. */
const PHASE_BY_REPORT: Record<string, string> = {
  imported: "import",
  configured: "configure",
  bound: "bind",
  plain: "import",
};

/** A process of the standby that could not become JupyterLab; a cold start can. */
class StaleError extends Error {}

/**
 * Starts a server: JupyterLab, with its gateway asked at the same time and its connection file written. Rejects with a
 * `ServiceError` that explains the failure, or with the reason of `start.cancel`; then nothing is left running.
 */
export async function startServer(context: Context, start: Start): Promise<Running> {
  const { config, log } = context;
  const { options, token, cancel, restarts, lastExit } = start;
  cancel.signal.throwIfAborted();
  log("info", "server starting", {
    base_url: options.baseUrl,
    notebook_dir: options.notebookDir,
    gateway: options.gatewayUrl,
    restarts,
  });
  const obstacle = new AbortController();
  const asked = requireGateway(context, options, cancel.signal);
  asked.catch((error) => obstacle.abort(error));
  const lab = await launchLab(context, options, token, AbortSignal.any([cancel.signal, obstacle.signal]));
  try {
    const gateway = await asked;
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
 * What the gateway says, null without one. Rejects where the start requires it and kernels can't run there, and with the
 * reason of `signal`.
 */
async function requireGateway(
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
 * Starts JupyterLab and resolves once it has answered an authenticated request under its base URL. It takes the quickest
 * way that is ready: an armed process, a standby, or a cold start. `token` is the one it must have; undefined: the
 * options' one, else a random one. Rejects with a `ServiceError` that explains the failure, or with `signal`'s reason;
 * then nothing is left running.
 */
async function launchLab(
  context: Context,
  options: StartOptions,
  token: string | undefined,
  signal: AbortSignal,
): Promise<Lab> {
  const { config, output, standby, log } = context;
  const begun = performance.now();
  checkFolders(config, options);
  const wantedToken = token ?? options.token;
  const stderr = openOutput(output);
  const logMark = output.mark();
  const handover = standby.take(options, wantedToken);
  if (handover) {
    try {
      return await bringUp(context, new Lab(context, handover, options, logMark), handover.reports, begun, signal);
    } catch (error) {
      if (!(error instanceof StaleError)) throw error;
      log("info", "standby not used", { kind: handover.kind, reason: error.message });
    }
  }
  signal.throwIfAborted();
  const cold = await spawnCold(context, options, wantedToken ?? makeToken(), stderr);
  return await bringUp(context, new Lab(context, cold, options, logMark), cold.reports, begun, signal);
}

/** Starts the launcher with its order. Rejects with `jupyter_not_found` where there is no Python to run it. */
async function spawnCold(context: Context, options: StartOptions, token: string, stderr: number): Promise<Handover> {
  const { config, secrets } = context;
  const runtimeDir = makeRuntimeDir(config);
  try {
    if (options.safeMode) mkdirSync(join(runtimeDir, "safe-mode"));
    const env = buildEnv(options, runtimeDir, config);
    const order = buildOrder(options, token, secrets.values(), config);
    const child = await spawnChild([config.python, "-u", LAUNCHER], { cwd: options.notebookDir, env, stderr });
    child.write(`${JSON.stringify(order)}\n`);
    child.closeInput();
    void loadClient();
    return { kind: "cold", child, reports: readReports(child), runtimeDir, token };
  } catch (error) {
    rmSync(runtimeDir, { recursive: true, force: true });
    throw explainSpawn(error, config.python);
  }
}

/** Four ends are possible: it answers, it ends, its time is up, it is not wanted any more. The first one counts. */
async function bringUp(
  context: Context,
  lab: Lab,
  reports: AsyncIterator<Report>,
  begun: number,
  signal: AbortSignal,
): Promise<Lab> {
  const { startTimeoutMs } = context.config;
  const timeout = new AbortController();
  const halt = AbortSignal.any([signal, timeout.signal]);
  const timer = setTimeout(
    () => {
      const limit = `${startTimeoutMs / 1000} s (START_TIMEOUT_S)`;
      timeout.abort(new ServiceError("start_timeout", `JupyterLab did not answer within ${limit}`));
    },
    startTimeoutMs - (performance.now() - begun),
  );
  const lost = Promise.withResolvers<never>();
  lost.promise.catch(() => {});
  const onHalt = () => lost.reject(halt.reason);
  halt.addEventListener("abort", onHalt, { once: true });
  if (halt.aborted) onHalt();
  lab.exited.then((exit) => lost.reject(exit));
  try {
    const recordPhase = (phase: string) => lab.recordPhase(phase, begun);
    lab.info = await Promise.race([awaitBound(lab, reports, halt, recordPhase), lost.promise]);
    await Promise.race([probe(lab, halt), lost.promise]);
    recordPhase("answer");
    lab.times.total = Math.round((performance.now() - begun) * 10) / 10;
    return lab;
  } catch (reason) {
    throw await explainFailure(context, lab, reason);
  } finally {
    halt.removeEventListener("abort", onHalt);
    clearTimeout(timer);
  }
}

/** Ends a start that failed, and says why: by the process's own exit where there is one, which is worth more than ours. */
async function explainFailure(context: Context, lab: Lab, reason: unknown): Promise<Error> {
  const byItself = isExit(reason);
  lab.kill();
  const killed = await lab.exited;
  const { at: _at, code, message, ...failure } = lab.explain(byItself ? reason : killed);
  await lab.clear(context.config.stopTimeoutMs, false);
  if (reason instanceof StaleError) return reason;
  if (byItself && lab.kind !== "cold" && reason.signal) return new StaleError(`it ended with signal ${reason.signal}`);
  if (byItself) return new ServiceError(code ?? "crashed", message, failure);
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
): Promise<ServerInfo> {
  recordPhase(lab.kind === "cold" ? "spawn" : "handover");
  for (let isFirst = true; ; isFirst = false) {
    const next = reports.next();
    if (isFirst && lab.kind !== "cold" && !(await settlesWithin(next, HANDOVER_TIMEOUT_MS)))
      throw new StaleError(`it said nothing within ${HANDOVER_TIMEOUT_MS / 1000} s`);
    const { value, done } = await next;
    // The pipe's end comes a moment before the exit that explains it.
    if (done || !value) return new Promise<never>(() => {});
    if (value.phase === "stale") throw new StaleError(value.reason ?? "what it had read has changed");
    const phase = PHASE_BY_REPORT[value.phase];
    if (phase) recordPhase(phase);
    if (value.server) return value.server;
    if (value.phase === "plain") return await awaitServerFile(lab, signal);
  }
}

/** A JupyterLab that our launcher could not take hold of tells of itself in a file, as every Jupyter server does. */
async function awaitServerFile(lab: Lab, signal: AbortSignal): Promise<ServerInfo> {
  const path = join(lab.runtimeDir, `jpserver-${lab.pid}.json`);
  while (!signal.aborted) {
    const info = parseJson(readTextFile(path));
    if (info) return info as ServerInfo;
    await sleep(PROBE_PAUSE_MS);
  }
  return new Promise<never>(() => {});
}

/** Asks as the user's browser will, until JupyterLab lets us in. */
async function probe(lab: Lab, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    const answer = await lab.request("GET", "api/me", PROBE_TIMEOUT_MS, signal).catch(() => undefined);
    if (answer?.status === 200) return;
    if (answer && answer.status < 500) {
      throw new ServiceError(
        "config_error",
        `JupyterLab does not let its own token in (status ${answer.status} at ${lab.server.base_url}api/me); a configuration file or a setting changes how it identifies users`,
      );
    }
    await sleep(PROBE_PAUSE_MS);
  }
}

function isExit(reason: unknown): reason is Exit {
  return typeof reason === "object" && reason !== null && !(reason instanceof Error) && "signal" in reason;
}

function openOutput(output: Output): number {
  try {
    return output.open();
  } catch (error) {
    const message = `LOG_FILE must be a file that we can write, ${output.path} is not (${errorCode(error)})`;
    throw new ServiceError("permission_denied", message, {}, error);
  }
}

function explainSpawn(error: unknown, python: string): ServiceError {
  const code = errorCode(error);
  const fix = "set PYTHON to the Python that has JupyterLab";
  if (error instanceof ServiceError) return error;
  if (code === "ENOENT")
    return new ServiceError("jupyter_not_found", `There is no Python at ${python}; ${fix}`, {}, error);
  if (code === "EACCES") return new ServiceError("jupyter_not_found", `${python} can't be executed; ${fix}`, {}, error);
  return new ServiceError("internal", "The start failed unexpectedly", {}, error);
}
