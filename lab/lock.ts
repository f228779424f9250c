/** The lock beside the connection file: one control API has it at a time, from its launch to its end. */
import { lstatSync, mkdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { type Static, Type } from "@sinclair/typebox";
import { Value } from "@sinclair/typebox/value";
import { errorCode, explainShortage, ServiceError } from "../lib/errors.ts";
import { readTextFile, systemError } from "../lib/files.ts";
import type { Log } from "../lib/log.ts";
import { readBootId, readProcess } from "../lib/procfs.ts";
import { parseJson } from "../lib/values.ts";

/** Who holds a lock file: a process, identified for ever by boot, pid and start time. */
export const LockOwner = Type.Object({ pid: Type.Integer(), start_time: Type.Integer(), boot_id: Type.String() });
export type LockOwner = Static<typeof LockOwner>;

/** The lock file is read and replaced within microseconds. A mutex that is older than this was left by a killed program. */
const MUTEX_STALE_MS = 2000;
const MUTEX_POLL_MS = 5;
const MUTEX_TIMEOUT_MS = 3 * MUTEX_STALE_MS;

/**
 * Takes the lock beside the connection file, until `releaseLock`. Returns a sentence that names the owner if another
 * control API that is alive holds it. A lock that this process holds already is no obstacle: `bun --watch` restarts the
 * program within its process.
 */
export function acquireLock(path: string): string | undefined {
  try {
    return takeLock(path);
  } catch {
    // The first start reports a folder that can't be written.
    return undefined;
  }
}

/**
 * Makes sure that this program has the lock: it is gone if somebody has removed its folder, and another control API may
 * have taken it since. Throws `config_error`, `permission_denied` or `out_of_resources`. Returns whether it was renewed.
 */
export function requireLock(path: string): boolean {
  if (isOwn(readOwner(path))) return false;
  try {
    const problem = takeLock(path);
    if (problem) throw new ServiceError("config_error", `The lock of CONNECTION_FILE was lost: ${problem}`);
    return true;
  } catch (error) {
    if (error instanceof ServiceError) throw error;
    const thing = `The lock ${path}.lock can't be written`;
    const denied = new ServiceError("permission_denied", `${thing} (${errorCode(error)})`, {}, error);
    throw explainShortage(error, thing) ?? denied;
  }
}

/** Whether another control API that is alive has the lock, or uses the connection file without it. */
export function isHeldByOther(path: string): boolean {
  const owner = readOwner(path);
  return isRunning(owner) && !isOwn(owner);
}

/** Releases the lock beside the connection file. One that can't be removed is logged, and is stale once this program ends. */
export function releaseLock(path: string, log: Log): void {
  const file = `${path}.lock`;
  try {
    if (isOwn(parseOwner(file))) rmSync(file, { force: true });
  } catch (error) {
    log("warn", "lock left", { reason: `${file} can't be removed (${errorCode(error)})` });
  }
}

/** This program, as the owner of a lock. */
export function describeOwn(): LockOwner {
  own ??= { pid: process.pid, start_time: readProcess(process.pid)?.startTime ?? 0, boot_id: readBootId() };
  return own;
}

let own: LockOwner | undefined;

function takeLock(path: string): string | undefined {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  return withMutex(`${path}.lock.d`, () => {
    const owner = readOwner(path);
    if (isRunning(owner) && !isOwn(owner))
      return `the control API with pid ${owner?.pid} uses CONNECTION_FILE ${path}; each control API needs its own`;
    rmSync(`${path}.lock`, { recursive: true, force: true });
    writeFileSync(`${path}.lock`, JSON.stringify(describeOwn()), { mode: 0o600, flag: "wx" });
    return undefined;
  });
}

/** Runs `work` while this program alone has the folder: of several programs only one can make it. */
function withMutex<T>(folder: string, work: () => T): T {
  const limit = performance.now() + MUTEX_TIMEOUT_MS;
  for (;;) {
    try {
      mkdirSync(folder);
      break;
    } catch (error) {
      if (errorCode(error) !== "EEXIST") throw error;
      if (performance.now() > limit) throw systemError("ETIMEDOUT", `${folder} is not released`);
      const age = Date.now() - (statSync(folder, { throwIfNoEntry: false })?.mtimeMs ?? 0);
      if (Math.abs(age) > MUTEX_STALE_MS || !isFolder(folder)) rmSync(folder, { recursive: true, force: true });
      // Blocks the thread for the microseconds that another program needs, or once for two seconds after its death.
      else Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, MUTEX_POLL_MS);
    }
  }
  try {
    return work();
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function isFolder(path: string): boolean {
  return lstatSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;
}

/** Who has the lock; without a lock file, who wrote the connection file. */
function readOwner(path: string): LockOwner | undefined {
  return parseOwner(`${path}.lock`) ?? parseOwner(path);
}

function parseOwner(file: string): LockOwner | undefined {
  const content = parseJson(readTextFile(file)) as { supervisor?: { control_api?: unknown } } | null | undefined;
  const owner = content?.supervisor?.control_api ?? content;
  return Value.Check(LockOwner, owner) ? owner : undefined;
}

function isOwn(owner: LockOwner | undefined): boolean {
  const { pid, start_time, boot_id } = describeOwn();
  return owner?.pid === pid && owner.start_time === start_time && owner.boot_id === boot_id;
}

/** Whether an owner is alive. It is if that is not known: two owners are worse than none. */
function isRunning(owner: LockOwner | undefined): boolean {
  if (owner?.boot_id !== readBootId()) return false;
  try {
    return readProcess(owner.pid)?.startTime === owner.start_time;
  } catch {
    return true;
  }
}
