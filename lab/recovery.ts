/** Recovery after the death of an earlier control API: its JupyterLab is kept if it answers, everything else is ended. */
import { readdirSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { ServiceError } from "../lib/errors.ts";
import { endProcessTree } from "../lib/process-tree.ts";
import { findOrphanedMarks, findProcessTree, type ProcessInfo, readBootId, readProcess } from "../lib/procfs.ts";
import { attachTo, awaitEnd, guessExit } from "./attach.ts";
import { type Connection, readConnection, removeConnection } from "./connection.ts";
import type { Context } from "./context.ts";
import { markOf, RUNTIME_DIR_SUFFIX, removeRuntimeDir, requireInside } from "./folders.ts";
import { askGateway, findGateway, GATEWAY_TIMEOUT_MS } from "./gateway.ts";
import { deleteGatewayKernels } from "./gateway-kernels.ts";
import { Lab } from "./lab.ts";
import type { Running } from "./state.ts";

/** What an earlier control API has left. */
interface Leftovers {
  /** Of its JupyterLab. */
  record: Connection | undefined;
  /** The recorded process; undefined if it is gone. */
  info: ProcessInfo | undefined;
  /** The runtime folders. */
  folders: string[];
}

/** Finds what may still run, and ends none of it. A record that can't be used is removed, and the log says why. */
export function findLeftovers({ config, log }: Context): Leftovers {
  const path = config.connectionFile;
  const record = readConnection(path);
  const folders = [...new Set([...listRuntimeDirs(path), ...listRemovedDirs(path)])];
  if (typeof record !== "string") return { record, info: record && findProcess(record), folders };
  log("warn", "connection file not usable", { reason: record });
  removeConnection(path);
  return { record: undefined, info: undefined, folders };
}

/** Ends what a JupyterLab that is gone has left: processes, folders, and its kernels at a gateway. */
export async function clearLeftovers(context: Context, { record, folders }: Leftovers): Promise<void> {
  const { config, log } = context;
  const gateway = record && findGateway(record.supervisor.options, config);
  if (gateway) await deleteGatewayKernels(gateway, record.supervisor.runtime_dir, GATEWAY_TIMEOUT_MS, log);
  await endLeftovers(context, folders);
}

/**
 * Recovers the JupyterLab of a record, whose process this is. It must accept its token; otherwise it is ended with everything
 * that belongs to it, its record is removed, and this rejects with `crashed`, or with `invalid_options` if its folder is not
 * inside NOTEBOOK_DIR any more. The processes of all other `folders` are ended too. `signal` ends the wait for its answer.
 */
export async function recoverServer(
  context: Context,
  record: Connection,
  info: ProcessInfo,
  folders: string[],
  signal: AbortSignal,
): Promise<Running> {
  const { config, log } = context;
  const { runtime_dir, options, last_exit } = record.supervisor;
  const gateway = findGateway(options, config);
  const others = folders.filter((folder) => folder !== runtime_dir);
  await endLeftovers(context, others, { info, runtimeDir: runtime_dir });
  const lab = makeLab(context, record, info);
  try {
    requireInside(config, options);
    context.logFile.restore(info.pid, lab.logOffset);
    const [answer, asked] = await Promise.all([
      lab.request("GET", "api/me", context.pauses.recoveryProbeMs, signal).catch(() => undefined),
      gateway ? askGateway(gateway, config, signal) : null,
    ]);
    if (answer?.status !== 200 && !signal.aborted) {
      const reason = answer ? `answered with status ${answer.status}` : "did not answer";
      const message = `JupyterLab (pid ${info.pid}) of an earlier control API ${reason}: it was ended`;
      throw new ServiceError("crashed", message);
    }
    log("info", "server recovered", { pid: info.pid, port: record.port, started_at: record.started_at });
    return {
      lab,
      gateway: asked?.status ?? null,
      startedAt: record.started_at,
      restarts: record.restarts,
      lastExit: last_exit,
    };
  } catch (error) {
    lab.kill();
    removeConnection(config.connectionFile);
    await lab.clear();
    throw error;
  }
}

function makeLab(context: Context, record: Connection, info: ProcessInfo): Lab {
  const { options, runtime_dir: runtimeDir, secret, start_kind: kind, start_ms, warnings } = record.supervisor;
  const { hostname, port, secure, base_url, root_dir, password, pid, version, token } = record;
  const exited = awaitEnd(info, () => record).then(() => guessExit(info, runtimeDir));
  const child = attachTo(info, exited);
  const lab = new Lab(context, { kind, child, runtimeDir, token, secret }, options, {
    mark: context.logFile.mark(),
    offset: record.supervisor.log_offset ?? 0,
  });
  lab.info = { hostname, port, secure, base_url, root_dir, password, pid, version };
  lab.warnings = warnings;
  Object.assign(lab.times, start_ms);
  return lab;
}

/**
 * Ends every process that was started with one of these runtime folders, and removes the folders. A JupyterLab to keep is
 * spared with its processes: it may still be the child of a standby that hangs.
 */
async function endLeftovers(
  { config, log }: Context,
  folders: string[],
  kept?: { info: ProcessInfo; runtimeDir: string },
): Promise<void> {
  await Promise.all(
    folders.map(async (folder) => {
      const mark = markOf(folder);
      let count = 0;
      const find = (known: readonly ProcessInfo[]) => {
        const tree = findProcessTree(known, mark);
        const spared = kept ? findProcessTree([kept.info], markOf(kept.runtimeDir)) : undefined;
        const pids = new Set(spared?.processes.map(({ pid }) => pid));
        tree.processes = tree.processes.filter(({ pid }) => !pids.has(pid));
        tree.groups = tree.groups.filter((group) => !spared?.groups.includes(group));
        count = Math.max(count, tree.processes.length);
        return tree;
      };
      const { processes, unknown } = await endProcessTree(find, {
        graceful: false,
        timeoutMs: config.stopTimeoutMs,
        mark,
      });
      const left = processes.length;
      if (count > 0 || unknown) log("warn", "leftovers ended", { folder, processes: count, left, unknown });
      // The folder's name finds what is left of them the next time.
      if (left === 0 && unknown === undefined) removeRuntimeDir(folder, log);
    }),
  );
}

function listRuntimeDirs(connectionFile: string): string[] {
  const parent = dirname(connectionFile);
  try {
    const names = readdirSync(parent);
    return names
      .filter((name) => name.startsWith(basename(connectionFile) + RUNTIME_DIR_SUFFIX))
      .map((name) => join(parent, name));
  } catch {
    return [];
  }
}

/** The runtime folders of processes that nobody owns. A folder can have been removed while they were frozen. */
function listRemovedDirs(connectionFile: string): string[] {
  const prefix = connectionFile + RUNTIME_DIR_SUFFIX;
  try {
    const folders = findOrphanedMarks(markOf(prefix)).map((mark) => mark.slice(markOf("").length));
    // The folder is going to be removed, and any process can have such a variable.
    return folders.filter((folder) => /^\w+$/.test(folder.slice(prefix.length)));
  } catch {
    return [];
  }
}

/** The recorded process; undefined if it is gone, or if its pid belongs to another process now. */
function findProcess({ pid, supervisor }: Connection): ProcessInfo | undefined {
  const info = readProcess(pid);
  const isSame = supervisor.boot_id === readBootId() && info?.startTime === supervisor.start_time;
  return isSame ? info : undefined;
}
