/** What an earlier control API has left: its JupyterLab is taken over where it answers, and everything else is ended. */
import { existsSync, readdirSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { basename, dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { ServiceError } from "../lib/errors.ts";
import * as processes from "../lib/spawn.ts";
import { toLocalHost } from "./client.ts";
import { type Connection, readConnection, removeConnection } from "./connection.ts";
import { RUNTIME_DIR_SUFFIX } from "./folders.ts";
import { askGateway, findGateway, GATEWAY_TIMEOUT_MS, releaseKernels } from "./gateway.ts";
import { type Context, Lab } from "./lab.ts";
import type { Running } from "./state.ts";

const PROBE_TIMEOUT_MS = 5000;
const RECONNECT_PAUSE_MS = 50;

/** The record of a JupyterLab that may still run, and the runtime folders of all that may have been left. */
export interface Leftovers {
  record: Connection | undefined;
  folders: string[];
}

/** Looks for leftovers without touching them; a record that can't be used is removed, with one line that says why. */
export function findLeftovers({ config, log }: Context): Leftovers {
  const path = config.connectionFile;
  const record = readConnection(path);
  const folders = listRuntimeDirs(path);
  if (typeof record !== "string") return { record, folders };
  log("warn", "connection file removed", { reason: record });
  removeConnection(path);
  return { record: undefined, folders };
}

/**
 * Makes a recorded JupyterLab this program's own. It must be the very process (boot, pid and start time agree) and must
 * let its token in; else it is ended with everything of it, and this rejects with `crashed`. Everything in `folders` that
 * is not its own is ended too. It is not asked any more once `signal` says that it is to be stopped.
 */
export async function adoptServer(
  context: Context,
  record: Connection,
  folders: string[],
  signal: AbortSignal,
): Promise<Running> {
  const { config, log } = context;
  const { runtime_dir, options, last_exit } = record.supervisor;
  const gateway = findGateway(options, config);
  const info = findProcess(record);
  if (!info && gateway) await releaseKernels(gateway, runtime_dir, GATEWAY_TIMEOUT_MS, log);
  const foreign = folders.filter((folder) => folder !== runtime_dir || !info);
  await endLeftovers(context, foreign);
  if (!info) throw lose(context, `JupyterLab (pid ${record.pid}) was gone when the control API came back`);
  const lab = makeLab(context, record, info);
  try {
    context.output.restore();
    const [answer, asked] = await Promise.all([
      lab.request("GET", "api/me", PROBE_TIMEOUT_MS, signal).catch(() => undefined),
      gateway ? askGateway(gateway, config, signal) : null,
    ]);
    if (answer?.status !== 200 && !signal.aborted) {
      const reason = answer ? `answered with status ${answer.status}` : "did not answer";
      throw lose(context, `JupyterLab (pid ${info.pid}) of an earlier control API ${reason}: it was ended`);
    }
    log("info", "server adopted", { pid: info.pid, port: record.port, started_at: record.started_at });
    return {
      lab,
      gateway: asked?.status ?? null,
      startedAt: record.started_at,
      restarts: record.restarts,
      lastExit: last_exit,
    };
  } catch (error) {
    lab.kill();
    await lab.clear(config.stopTimeoutMs, false);
    throw error;
  }
}

function lose({ config }: Context, reason: string): ServiceError {
  removeConnection(config.connectionFile);
  return new ServiceError("crashed", reason);
}

function makeLab(context: Context, record: Connection, info: processes.ProcessInfo): Lab {
  const { options, runtime_dir: runtimeDir, start_kind: kind, start_ms } = record.supervisor;
  const { hostname, port, secure, base_url, root_dir, password, pid, version, token } = record;
  const child = adoptChild(info, record);
  const lab = new Lab(
    context,
    { kind, child, reports: noReports(), runtimeDir, token },
    options,
    context.output.mark(),
  );
  lab.info = { hostname, port, secure, base_url, root_dir, password, pid, version };
  Object.assign(lab.times, start_ms);
  return lab;
}

/** Ends every process that was started with one of these runtime folders, and removes them. */
export async function endLeftovers({ config, log }: Context, folders: string[]): Promise<void> {
  await Promise.all(
    folders.map(async (folder) => {
      const find = () => processes.findFamily([], `JUPYTER_RUNTIME_DIR=${folder}`);
      const count = find().length;
      const left = await processes.sweepFamily(find, { graceful: false, timeoutMs: config.stopTimeoutMs });
      if (count > 0) log("warn", "leftovers ended", { folder, processes: count, left: left.length });
      rmSync(folder, { recursive: true, force: true });
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

/** The recorded process; undefined where its pid is nobody's now, or another's. */
function findProcess({ pid, supervisor }: Connection): processes.ProcessInfo | undefined {
  const info = processes.readProcess(pid);
  const isSame = supervisor.boot_id === processes.readBootId() && info?.startTime === supervisor.start_time;
  return isSame ? info : undefined;
}

/** A process that is no child of this one. Its end is noticed at once, by a connection to its port that ends with it. */
function adoptChild(info: processes.ProcessInfo, record: Connection): processes.Child {
  // JupyterLab removes this file when it ends in order, and only then.
  const file = join(record.supervisor.runtime_dir, `jpserver-${info.pid}.json`);
  const ended = async (): Promise<processes.Exit> => {
    while (processes.isAlive(info)) {
      await holdConnection(record.port, record.hostname);
      // It closes its port some moments before it ends.
      await sleep(RECONNECT_PAUSE_MS);
    }
    return { code: existsSync(file) ? null : 0, signal: null };
  };
  return {
    pid: info.pid,
    exited: ended(),
    signal: (name) => {
      if (processes.isAlive(info)) processes.sendSignal(info.pid, name);
    },
    write: () => {},
    closeInput: () => {},
    output: new ReadableStream(),
  };
}

/** Resolves when a connection to the port ends, or could not be made. */
function holdConnection(port: number, hostname: string): Promise<void> {
  return new Promise((settle) => {
    const socket = connect({ port, host: toLocalHost(hostname), keepAlive: true });
    socket.unref();
    socket.on("error", () => {});
    socket.on("close", () => settle());
    socket.resume();
  });
}

async function* noReports() {}
