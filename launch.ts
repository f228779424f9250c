/** One start: from a folder check to a JupyterLab that answers, or to an error that explains why it does not. */
import { accessSync, constants, mkdirSync, mkdtempSync, rmSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { parseJson } from "./client.ts";
import { errorCode } from "./config.ts";
import { ServiceError } from "./errors.ts";
import { type Context, Lab, type ServerInfo } from "./lab.ts";
import type { StartOptions } from "./options.ts";
import { buildEnv, buildOrder } from "./order.ts";
import type { Output } from "./output.ts";
import { type Child, type Exit, spawnChild } from "./process.ts";

const PROBE_TIMEOUT_MS = 5000;
const PROBE_PAUSE_MS = 10;
const LAUNCHER = fileURLToPath(new URL("launcher.py", import.meta.url));

/** The launcher's reports, and the phase of the start that each one ends. */
const PHASE_BY_REPORT: Record<string, string> = { imported: "import", configured: "configure", bound: "bind" };

/**
 * Starts JupyterLab and resolves once it has answered an authenticated request under its base URL. Rejects with a
 * `ServiceError` that explains the failure, or with `signal`'s reason; then nothing is left running.
 */
export async function launchLab(
  context: Context,
  options: StartOptions,
  token: string,
  signal: AbortSignal,
): Promise<Lab> {
  const { config, output, secrets } = context;
  const begun = performance.now();
  const runtimeDir = prepareFolders(context, options);
  try {
    const stderr = openOutput(output);
    const logMark = output.mark();
    const env = buildEnv(options, runtimeDir, config);
    const child = await spawnChild([config.python, "-u", LAUNCHER], { cwd: options.notebookDir, env, stderr });
    const lab = new Lab(context, child, options, token, runtimeDir, logMark);
    child.write(`${JSON.stringify(buildOrder(options, token, secrets.values(), config))}\n`);
    child.closeInput();
    await becomeReady(context, lab, child, begun, signal);
    return lab;
  } catch (error) {
    rmSync(runtimeDir, { recursive: true, force: true });
    throw error instanceof ServiceError ? error : explainSpawn(error, config.python);
  }
}

/** Checks and makes what a start needs on disk, so that a missing right is named before Python is started. */
function prepareFolders({ config }: Context, options: StartOptions): string {
  if (!options.safeMode && !isFile(config.jupyterConfigFile)) {
    throw new ServiceError(
      "config_error",
      `JUPYTER_CONFIG_FILE must be a file that can be read, ${config.jupyterConfigFile} is not`,
    );
  }
  requireFolder("NOTEBOOK_DIR", config.notebookDir, 0o777);
  requireFolder("The notebook folder", options.notebookDir, 0o777);
  const runtime = dirname(config.connectionFile);
  requireFolder("The folder of CONNECTION_FILE", runtime, 0o700);
  const own = mkdtempSync(join(runtime, "lab-"));
  if (options.safeMode) mkdirSync(join(own, "safe-mode"));
  return own;
}

function isFile(path: string): boolean {
  try {
    accessSync(path, constants.R_OK);
    return statSync(path).isFile();
  } catch {
    return false;
  }
}

function requireFolder(name: string, path: string, mode: number): void {
  try {
    mkdirSync(path, { recursive: true, mode });
    accessSync(path, constants.R_OK | constants.W_OK | constants.X_OK);
  } catch (error) {
    const code = errorCode(error);
    const denied = code === "EACCES" || code === "EPERM" || code === "EROFS";
    const message = `${name} must be a folder that we can write, ${path} is not (${code}${describeOwner(path)})`;
    throw new ServiceError(denied ? "permission_denied" : "config_error", message, {}, error);
  }
}

function describeOwner(path: string): string {
  try {
    const { uid, gid, mode } = statSync(path);
    const rights = (mode & 0o7777).toString(8);
    return `; it belongs to ${uid}:${gid} with mode ${rights}, we are ${process.getuid?.()}:${process.getgid?.()}`;
  } catch {
    return "";
  }
}

/** Four ends are possible: it answers, it ends, its time is up, it is not wanted any more. The first one counts. */
async function becomeReady(
  context: Context,
  lab: Lab,
  child: Child,
  begun: number,
  signal: AbortSignal,
): Promise<void> {
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
    lab.info = await Promise.race([readReports(child, recordPhase), lost.promise]);
    await Promise.race([probe(lab, halt), lost.promise]);
    recordPhase("answer");
    lab.times.total = Math.round((performance.now() - begun) * 10) / 10;
  } catch (reason) {
    throw await explainFailure(context, lab, reason);
  } finally {
    halt.removeEventListener("abort", onHalt);
    clearTimeout(timer);
  }
}

/** Ends a start that failed, and says why: by the process's own exit where there is one, which is worth more than ours. */
async function explainFailure(context: Context, lab: Lab, reason: unknown): Promise<ServiceError> {
  const byItself = isExit(reason);
  lab.kill();
  const killed = await lab.exited;
  const { at: _at, code, message, ...failure } = lab.explain(byItself ? reason : killed);
  await lab.clear(context.config.stopTimeoutMs, false);
  if (byItself) return new ServiceError(code ?? "crashed", message, failure);
  if (reason instanceof ServiceError) return new ServiceError(reason.code, reason.message, failure, reason);
  return new ServiceError("internal", "The start failed unexpectedly", failure, reason);
}

/** Follows the launcher's reports until the port is bound. It ends with the process, so it needs no deadline of its own. */
async function readReports(child: Child, recordPhase: (phase: string) => void): Promise<ServerInfo> {
  recordPhase("spawn");
  let rest = "";
  const decoder = new TextDecoder();
  for await (const chunk of child.output) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) {
      const report = parseJson(line) as { phase?: string; server?: ServerInfo } | undefined;
      const phase = PHASE_BY_REPORT[report?.phase ?? ""];
      if (phase) recordPhase(phase);
      if (report?.server) return report.server;
    }
  }
  // The pipe's end comes a moment before the exit that explains it.
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
  if (code === "ENOENT")
    return new ServiceError("jupyter_not_found", `There is no Python at ${python}; ${fix}`, {}, error);
  if (code === "EACCES") return new ServiceError("jupyter_not_found", `${python} can't be executed; ${fix}`, {}, error);
  return new ServiceError("internal", "The start failed unexpectedly", {}, error);
}
