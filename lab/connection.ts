/** The connection file: the running server's details, for programs beside this one and for the next control API. */
import { linkSync, lstatSync, mkdirSync, readFileSync, realpathSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname } from "node:path";
import { type Static, Type } from "@sinclair/typebox";
import { Value } from "@sinclair/typebox/value";
import { errorCode } from "../config.ts";
import { ServiceError } from "../lib/errors.ts";
import { readBootId, readProcess } from "../lib/spawn.ts";
import { parseJson } from "./client.ts";
import { RUNTIME_DIR_SUFFIX } from "./folders.ts";
import type { StartOptions } from "./options.ts";
import type { Running } from "./state.ts";

/** Another one means that a record was made by a program which knew other options: it can't be taken over. */
const FORMAT = 1;

/** What the file holds: first what Jupyter calls by these names, then what the next control API needs. */
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

/** Writes the file at once or not at all, readable by its owner only. Throws `permission_denied`. */
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
      start_kind: lab.kind,
      start_ms: lab.times,
      last_exit: lastExit,
      options: lab.options,
    },
  };
  const draft = `${path}.${process.pid}.new`;
  try {
    // One that was left by a process with this pid; whatever lies here is replaced, never followed.
    rmSync(draft, { force: true });
    writeFileSync(draft, `${JSON.stringify(record, null, 2)}\n`, { mode: 0o600, flag: "wx" });
    renameSync(draft, path);
  } catch (error) {
    rmSync(draft, { force: true });
    const reason = `CONNECTION_FILE must be a file that we can write, ${path} is not (${errorCode(error)})`;
    throw new ServiceError("permission_denied", reason, {}, error);
  }
}

/** What the file says; undefined where it is not there, and a sentence where it can't be used. */
export function readConnection(path: string): Connection | string | undefined {
  try {
    // Processes are ended and a folder is removed by what it says: anybody may write into a folder such as /tmp.
    if (lstatSync(path).uid !== process.getuid?.()) return `${path} belongs to somebody else`;
    const record: unknown = JSON.parse(readFileSync(path, "utf8"));
    if (!Value.Check(ConnectionRecord, record)) return `${path} has another format`;
    return isRuntimeDir(path, record.supervisor.runtime_dir) ? record : `${path} names a folder that is not its own`;
  } catch (error) {
    if (error instanceof SyntaxError) return `${path} is not whole`;
    return errorCode(error) === "ENOENT" ? undefined : `${path} can't be read (${errorCode(error)})`;
  }
}

/** Whether a folder is one that a start with this connection file makes, by whatever links either is reached. */
function isRuntimeDir(path: string, folder: string): boolean {
  if (!basename(folder).startsWith(basename(path) + RUNTIME_DIR_SUFFIX)) return false;
  try {
    return realpathSync(dirname(folder)) === realpathSync(dirname(path));
  } catch {
    return false;
  }
}

/** Removes the file. One that stays, on a disk that can't be written any more, names a process that is gone. */
export function removeConnection(path: string): void {
  try {
    rmSync(path, { force: true });
  } catch {
    // Nothing that runs depends on it.
  }
}

/**
 * Makes the connection file this program's own until `releaseConnection`. Where another control API that is alive has it,
 * a sentence says which one; a claim that its owner left behind counts for nothing.
 */
export function claimConnection(path: string): string | undefined {
  const claim = `${path}.lock`;
  const broom = `${claim}.broom`;
  const draft = `${claim}.${process.pid}.new`;
  const { pid, startTime } = readProcess(process.pid) ?? { pid: process.pid, startTime: 0 };
  try {
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
    writeFileSync(draft, JSON.stringify({ pid, start_time: startTime, boot_id: readBootId() }), { mode: 0o600 });
    for (;;) {
      if (takes(draft, claim)) return undefined;
      const owner = findOwner(claim);
      if (owner) return `the control API with pid ${owner} uses CONNECTION_FILE ${path}; each one needs its own`;
      // One at a time: who has seen the same stale claim would remove the one that has come in its place.
      if (takes(draft, broom)) {
        try {
          if (findOwner(claim) === 0) rmSync(claim, { force: true });
        } finally {
          removeConnection(broom);
        }
      } else if (findOwner(broom) === 0) rmSync(broom, { force: true });
    }
  } catch {
    // A folder that can't be written is named by the first start; what can't be removed from it is nobody's claim.
    return undefined;
  } finally {
    removeConnection(draft);
  }
}

/** Gives the connection file up. */
export function releaseConnection(path: string): void {
  removeConnection(`${path}.lock`);
}

/** Whether a name could be had for a file. A link is there whole or not at all, and never takes the place of another. */
function takes(draft: string, name: string): boolean {
  try {
    linkSync(draft, name);
    return true;
  } catch (error) {
    if (errorCode(error) !== "EEXIST") throw error;
    return false;
  }
}

/** Whose claim it is, by pid: 0 where its owner is gone, undefined where there is no claim. */
function findOwner(claim: string): number | undefined {
  try {
    const text = readFileSync(claim, "utf8");
    const { pid, start_time, boot_id } = (parseJson(text) ?? {}) as Record<string, unknown>;
    return boot_id === readBootId() && readProcess(Number(pid))?.startTime === start_time ? Number(pid) : 0;
  } catch (error) {
    return errorCode(error) === "ENOENT" ? undefined : 0;
  }
}
