/** Files whose name or content comes from elsewhere: plain ones only, up to a bound, and read without waiting. */
import {
  closeSync,
  constants,
  fstatSync,
  openSync,
  readFileSync,
  readSync,
  realpathSync,
  rmSync,
  statSync,
} from "node:fs";
import { sep } from "node:path";
import { errorCode } from "./errors.ts";

/** The most that is read of a file, unless its reader says otherwise. */
const MAX_FILE_BYTES = 1024 * 1024;
const CHUNK_BYTES = 64 * 1024;

/**
 * A plain file's text. Throws the system's error, `EFTYPE` if it is a FIFO, a device or a folder, and `EFBIG` over the
 * bound. The open does not wait for the other end of a FIFO.
 */
export function readPlainFile(path: string, maxBytes = MAX_FILE_BYTES): string {
  const descriptor = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY);
  try {
    if (!fstatSync(descriptor).isFile()) throw systemError("EFTYPE", "it is not a plain file");
    const chunks: Buffer[] = [];
    // Not by its size: a file in /proc says 0, and another one can grow meanwhile.
    for (let size = 0; ; ) {
      const chunk = Buffer.allocUnsafe(CHUNK_BYTES);
      const read = readSync(descriptor, chunk, 0, CHUNK_BYTES, null);
      if (read === 0) return Buffer.concat(chunks).toString("utf8");
      chunks.push(chunk.subarray(0, read));
      size += read;
      if (size > maxBytes) throw systemError("EFBIG", `it is over ${maxBytes} bytes`);
    }
  } finally {
    closeSync(descriptor);
  }
}

/** A plain file's text; empty if it can't be read. */
export function readTextFile(path: string): string {
  try {
    return readPlainFile(path);
  } catch {
    return "";
  }
}

/** Whether there is something at a path that is not a plain file, links followed: a FIFO, a device, a folder. */
export function isSpecialFile(path: string): boolean {
  try {
    const stats = statSync(path, { throwIfNoEntry: false });
    return stats !== undefined && !stats.isFile();
  } catch {
    return false;
  }
}

/** A path with its links followed, if that is `root` or inside it; undefined if it is not. Throws the system's error. */
export function resolveInside(root: string, path: string): string | undefined {
  const realRoot = realpathSync(root);
  const real = realpathSync(path);
  return real === realRoot || real.startsWith(realRoot.endsWith(sep) ? realRoot : realRoot + sep) ? real : undefined;
}

/** Removes a file, or a folder with everything in it. Returns the system's error code if something of it is left. */
export function removePath(path: string): string | undefined {
  try {
    withDescriptors(() => rmSync(path, { recursive: true, force: true }));
    return undefined;
  } catch (error) {
    return errorCode(error);
  }
}

/** Descriptors that are given up for a moment when none is left: `/proc` can be read, and a folder removed, in any case. */
const SPARE_DESCRIPTORS = 4;
const spares: number[] = [];

/**
 * A file of `/proc`, decoded. Throws the system's error. It needs no free descriptor: clients can take all of them, and what
 * runs must be known even then.
 */
export function readProcFile(path: string): string {
  return withDescriptors(() => readFileSync(path, "utf8"));
}

/**
 * Does work that opens a few files, and closes them again, without a turn of the event loop: with the spare descriptors if
 * need be. Nothing else runs between their release and their return.
 */
export function withDescriptors<T>(work: () => T): T {
  holdSpares();
  try {
    return work();
  } catch (error) {
    if (errorCode(error) !== "EMFILE" || spares.length === 0) throw error;
    for (const descriptor of spares.splice(0)) closeSync(descriptor);
    try {
      return work();
    } finally {
      holdSpares();
    }
  }
}

function holdSpares(): void {
  try {
    while (spares.length < SPARE_DESCRIPTORS) spares.push(openSync("/dev/null", "r"));
  } catch {
    // The next call tries again.
  }
}

/** An error with the code of a system error. */
export function systemError(code: string, message: string): Error {
  return Object.assign(new Error(message), { code });
}
