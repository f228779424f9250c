/** The connection file: the running server's details, for other programs and for the next control API. */
import { lstatSync, realpathSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname } from "node:path";
import { type Static, Type } from "@sinclair/typebox";
import { Value } from "@sinclair/typebox/value";
import { errorCode, explainShortage, ServiceError } from "../lib/errors.ts";
import { isSpecialFile, readPlainFile } from "../lib/files.ts";
import { readBootId } from "../lib/procfs.ts";
import { RUNTIME_DIR_SUFFIX, requirePlainFile } from "./folders.ts";
import { ServerInfo } from "./launch-spec.ts";
import { describeOwn, isHeldByOther, LockOwner, requireLock } from "./lock.ts";
import type { StartOptions } from "./options.ts";
import type { Running } from "./state.ts";

/** The options of a start are at most 64 KiB, and a failure's log tail is far below the rest. */
const MAX_RECORD_BYTES = 8 * 1024 * 1024;
/** Format of the record. A server that was recorded in another format can't be recovered. */
const FORMAT = 2;

/** The file's contents: first fields with Jupyter's names, then what the next control API needs. */
const ConnectionRecord = Type.Object({
  ...ServerInfo.properties,
  pid: Type.Integer({ minimum: 2 }),
  token: Type.String(),
  url: Type.String(),
  started_at: Type.String(),
  restarts: Type.Integer(),
  supervisor: Type.Object({
    format: Type.Literal(FORMAT),
    boot_id: Type.String(),
    start_time: Type.Integer(),
    runtime_dir: Type.String(),
    /** The control API that wrote the record; while that runs the server is not another one's. */
    control_api: Type.Optional(LockOwner),
    /** Where the server's own lines begin in the log file. */
    log_offset: Type.Optional(Type.Integer({ minimum: 0 })),
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
        body: Type.Optional(Type.Record(Type.String(), Type.Unknown())),
      }),
    ),
  }),
});
export type Connection = Static<typeof ConnectionRecord>;

/** Writes the file atomically, with mode 0600. Throws `permission_denied`, `out_of_resources` or `config_error`. */
export function writeConnection(path: string, { lab, startedAt, restarts, lastExit }: Running): void {
  requireLock(path);
  requirePlainFile("CONNECTION_FILE", path);
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
      control_api: describeOwn(),
      log_offset: lab.logOffset,
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
    const shortage = explainShortage(error, `CONNECTION_FILE ${path} can't be written`);
    if (shortage) throw shortage;
    const reason = `CONNECTION_FILE must be a writable file; ${path} is not (${errorCode(error)})`;
    throw new ServiceError("permission_denied", reason, {}, error);
  }
}

/** Reads the file. Undefined if it is missing; a sentence that says why if it can't be used. */
export function readConnection(path: string): Connection | string | undefined {
  try {
    // Its contents decide which processes are ended and which folder is removed, and others may write to its folder.
    if (lstatSync(path).uid !== process.getuid?.()) return `${path} belongs to another user`;
    const record: unknown = JSON.parse(readPlainFile(path, MAX_RECORD_BYTES));
    if (!Value.Check(ConnectionRecord, record)) return `${path} has another format`;
    return isRuntimeDir(path, record.supervisor.runtime_dir) ? record : `${path} names a folder that is not its own`;
  } catch (error) {
    if (error instanceof SyntaxError) return `${path} is not complete JSON`;
    const code = errorCode(error);
    if (code === "EFTYPE") return `${path} is not a plain file`;
    if (code === "EFBIG") return `${path} is over ${MAX_RECORD_BYTES / 1024 / 1024} MiB`;
    return code === "ENOENT" ? undefined : `${path} can't be read (${code})`;
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

/**
 * Removes the file, unless it is not a plain file, or another control API uses it. One that can't be removed does no harm:
 * it names a process that is gone, which the next control API notices.
 */
export function removeConnection(path: string): void {
  if (isSpecialFile(path) || isHeldByOther(path)) return;
  try {
    rmSync(path, { force: true });
  } catch {
    // Nothing depends on its absence.
  }
}
