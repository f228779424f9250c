/** Opens log files: plain files, and devices such as `/dev/null`. */
import { closeSync, constants, fstatSync, openSync, type Stats, statSync } from "node:fs";
import { systemError } from "../lib/files.ts";

/** An open log file. */
export interface OpenFile {
  descriptor: number;
  /** Device and inode, which identify it when its path names another file. */
  id: string;
  /** False for a device such as `/dev/null`, which is written to and nothing else. */
  isPlain: boolean;
}

/** Opens a log file for appending, and makes it if it is missing. Throws the system's error, `EFTYPE` for a FIFO or a folder. */
export function openFile(path: string): OpenFile {
  const { O_RDWR, O_APPEND, O_CREAT, O_NONBLOCK, O_NOCTTY } = constants;
  // Without waiting for the reader of a FIFO. The mode is that of a new file: one that somebody else made keeps its own.
  const descriptor = openSync(path, O_RDWR | O_APPEND | O_CREAT | O_NONBLOCK | O_NOCTTY, 0o600);
  const stats = fstatSync(descriptor);
  if (stats.isFile()) return { descriptor, id: identify(stats), isPlain: true };
  closeSync(descriptor);
  if (!stats.isCharacterDevice()) throw systemError("EFTYPE", "it is not a plain file");
  const device = openSync(path, constants.O_WRONLY | O_APPEND | O_NOCTTY);
  return { descriptor: device, id: identify(fstatSync(device)), isPlain: false };
}

/** The file that a running process has as its standard error; undefined if that is none. */
export function openOutput(pid: number): OpenFile | undefined {
  try {
    const path = `/proc/${pid}/fd/2`;
    return statSync(path).isFile() ? openFile(path) : undefined;
  } catch {
    return undefined;
  }
}

/** The identity of the file at a path; undefined if there is none. */
export function findId(path: string): string | undefined {
  try {
    return identify(statSync(path));
  } catch {
    return undefined;
  }
}

function identify({ dev, ino }: Stats): string {
  return `${dev}:${ino}`;
}
