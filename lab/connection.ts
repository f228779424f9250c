/** The connection file: the running server's details, for other programs and for the next control API; and its lock. */
import { lstatSync, mkdirSync, readFileSync, realpathSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { basename, dirname } from "node:path";
import { type Static, Type } from "@sinclair/typebox";
import { Value } from "@sinclair/typebox/value";
import { errorCode, ServiceError } from "../lib/errors.ts";
import { readTextFile } from "../lib/files.ts";
import { readBootId, readProcess } from "../lib/procfs.ts";
import { parseJson } from "./client.ts";
import { RUNTIME_DIR_SUFFIX } from "./folders.ts";
import type { StartOptions } from "./options.ts";
import type { Running } from "./state.ts";

/** Format of the record. A server that was recorded in another format can't be recovered. */
const FORMAT = 2;

/** The file's contents: first fields with Jupyter's names, then what the next control API needs. */
const ConnectionRecord = Type.Object({
  hostname: Type.String(),
  port: Type.Integer(),
  secure: Type.Boolean(),
  base_url: Type.String(),
  root_dir: Type.String(),
  password: Type.Boolean(),
  pid: Type.Integer({ minimum: 2 }),
  version: Type.String(),
  token: Type.String(),
  url: Type.String(),
  started_at: Type.String(),
  restarts: Type.Integer(),
  supervisor: Type.Object({
    format: Type.Literal(FORMAT),
    boot_id: Type.String(),
    start_time: Type.Integer(),
    runtime_dir: Type.String(),
    secret: Type.String(),
    warnings: Type.Array(Type.String()),
    start_kind: Type.Union([Type.Literal("armed"), Type.Literal("standby"), Type.Literal("cold")]),
    start_ms: Type.Record(Type.String(), Type.Number()),
    last_exit: Type.Unsafe<Running["lastExit"]>(Type.Union([Type.Object({}), Type.Null()])),
    options: Type.Unsafe<StartOptions>(
      Type.Object({
        gatewayUrl: Type.Optional(Type.String()),
        gatewayToken: Type.Optional(Type.String()),
        gatewayRequired: Type.Boolean(),
        baseUrl: Type.String(),
        token: Type.Optional(Type.String()),
        notebookDir: Type.String(),
        defaultUrl: Type.String(),
        env: Type.Record(Type.String(), Type.String()),
        embedOrigins: Type.Array(Type.String()),
        safeMode: Type.Boolean(),
        settings: Type.Record(Type.String(), Type.Unknown()),
        key: Type.String(),
        asked: Type.Record(Type.String(), Type.Unknown()),
      }),
    ),
  }),
});
export type Connection = Static<typeof ConnectionRecord>;

/** Writes the file atomically, with mode 0600. Throws `permission_denied`. */
export function writeConnection(path: string, { lab, startedAt, restarts, lastExit }: Running): void {
  const record: Connection = {
    ...lab.server,
    token: lab.token,
    url: lab.address,
    started_at: startedAt,
    restarts,
    supervisor: {
      format: FORMAT,
      boot_id: readBootId(),
      start_time: lab.startTime,
      runtime_dir: lab.runtimeDir,
      secret: lab.secret,
      warnings: lab.warnings,
      start_kind: lab.kind,
      start_ms: lab.times,
      last_exit: lastExit,
      options: lab.options,
    },
  };
  const draft = `${path}.${process.pid}.new`;
  try {
    // An earlier process with this pid may have left a draft. It is replaced, and a link is not followed.
    rmSync(draft, { force: true });
    writeFileSync(draft, `${JSON.stringify(record, null, 2)}\n`, { mode: 0o600, flag: "wx" });
    renameSync(draft, path);
  } catch (error) {
    rmSync(draft, { force: true });
    const reason = `CONNECTION_FILE must be a writable file; ${path} is not (${errorCode(error)})`;
    throw new ServiceError("permission_denied", reason, {}, error);
  }
}

/** Reads the file. Undefined if it is missing; a sentence that says why if it can't be used. */
export function readConnection(path: string): Connection | string | undefined {
  try {
    // Its contents decide which processes are ended and which folder is removed, and others may write to its folder.
    if (lstatSync(path).uid !== process.getuid?.()) return `${path} belongs to another user`;
    const record: unknown = JSON.parse(readFileSync(path, "utf8"));
    if (!Value.Check(ConnectionRecord, record)) return `${path} has another format`;
    return isRuntimeDir(path, record.supervisor.runtime_dir) ? record : `${path} names a folder that is not its own`;
  } catch (error) {
    if (error instanceof SyntaxError) return `${path} is not complete JSON`;
    return errorCode(error) === "ENOENT" ? undefined : `${path} can't be read (${errorCode(error)})`;
  }
}

/** Whether a folder is a runtime folder of this connection file, with links followed. */
function isRuntimeDir(path: string, folder: string): boolean {
  if (!basename(folder).startsWith(basename(path) + RUNTIME_DIR_SUFFIX)) return false;
  try {
    return realpathSync(dirname(folder)) === realpathSync(dirname(path));
  } catch {
    return false;
  }
}

/** Removes the file. If it can't be removed, it names a process that is gone, which the next program notices. */
export function removeConnection(path: string): void {
  try {
    rmSync(path, { force: true });
  } catch {
    // Nothing depends on its absence.
  }
}

/** Who holds a lock file: a process, identified for ever by boot, pid and start time. */
interface LockOwner {
  pid: number;
  start_time: number;
  boot_id: string;
}

/** The lock file is read and replaced within microseconds. A mutex that is older than this was left by a killed program. */
const MUTEX_STALE_MS = 2000;
const MUTEX_POLL_MS = 5;

/**
 * Takes the lock beside the connection file, until `releaseLock`. Returns a sentence that names the owner if another
 * control API that is alive holds it. A lock of this very process counts as taken: `bun --watch` restarts the program
 * within its process.
 */
export function acquireLock(path: string): string | undefined {
  const lock = `${path}.lock`;
  try {
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
    return withMutex(`${lock}.d`, () => {
      const owner = readOwner(lock);
      if (isRunning(owner) && !isOwn(owner))
        return `the control API with pid ${owner?.pid} uses CONNECTION_FILE ${path}; each control API needs its own`;
      rmSync(lock, { force: true });
      writeFileSync(lock, JSON.stringify(describeOwn()), { mode: 0o600, flag: "wx" });
      return undefined;
    });
  } catch {
    // The first start reports a folder that can't be written.
    return undefined;
  }
}

/** Releases the lock beside the connection file. */
export function releaseLock(path: string): void {
  if (isOwn(readOwner(`${path}.lock`))) removeConnection(`${path}.lock`);
}

/** Runs `work` while this program alone has the folder: of several programs only one can make it. */
function withMutex<T>(folder: string, work: () => T): T {
  for (;;) {
    try {
      mkdirSync(folder);
      break;
    } catch (error) {
      if (errorCode(error) !== "EEXIST") throw error;
      const age = Date.now() - (statSync(folder, { throwIfNoEntry: false })?.mtimeMs ?? 0);
      if (Math.abs(age) > MUTEX_STALE_MS) rmSync(folder, { recursive: true, force: true });
      // Blocks the thread, which does not serve yet.
      else Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, MUTEX_POLL_MS);
    }
  }
  try {
    return work();
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function readOwner(lock: string): LockOwner | undefined {
  const owner = parseJson(readTextFile(lock));
  return typeof owner === "object" && owner !== null ? (owner as LockOwner) : undefined;
}

function describeOwn(): LockOwner {
  return { pid: process.pid, start_time: readProcess(process.pid)?.startTime ?? 0, boot_id: readBootId() };
}

function isOwn(owner: LockOwner | undefined): boolean {
  return owner?.pid === process.pid && isRunning(owner);
}

function isRunning(owner: LockOwner | undefined): boolean {
  return owner?.boot_id === readBootId() && readProcess(owner.pid)?.startTime === owner.start_time;
}
