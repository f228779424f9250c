/** The connection file: the running server's details, for programs beside this one and for the next control API. */
import { renameSync, rmSync, writeFileSync } from "node:fs";
import { errorCode } from "./config.ts";
import { ServiceError } from "./errors.ts";
import type { Running } from "./state.ts";

/** Writes the file at once or not at all, readable by its owner only. Throws `permission_denied`. */
export function writeConnection(path: string, { lab, startedAt, restarts }: Running): void {
  const record = { ...lab.server, token: lab.token, url: lab.address, started_at: startedAt, restarts };
  const draft = `${path}.${process.pid}.new`;
  try {
    writeFileSync(draft, `${JSON.stringify(record, null, 2)}\n`, { mode: 0o600, flag: "wx" });
    renameSync(draft, path);
  } catch (error) {
    rmSync(draft, { force: true });
    const reason = `CONNECTION_FILE must be a file that we can write, ${path} is not (${errorCode(error)})`;
    throw new ServiceError("permission_denied", reason, {}, error);
  }
}

/** Removes the file; one that is not there is no error. */
export function removeConnection(path: string): void {
  rmSync(path, { force: true });
}
