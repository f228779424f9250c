/** What a zygote and armed JupyterLabs write, before it belongs to the log of a start. */
import { closeSync, fstatSync, ftruncateSync, openSync, readSync } from "node:fs";

/** The last lines up to this size are kept: a start waits while they are masked. */
const MAX_BYTES = 256 * 1024;
const POLL_INTERVAL_MS = 500;

/**
 * The file that they write to. It stays small: a process that an armed JupyterLab has started writes to it for as long as
 * it runs, also after the start.
 */
export class StandbyLog {
  /** Open for appending, so that all who write to it go on at its beginning once it is emptied. */
  readonly descriptor: number;
  #written: Buffer = Buffer.alloc(0);
  #isOpen = true;
  #timer: ReturnType<typeof setInterval>;

  /** Makes the file. Throws the system's error. */
  constructor(path: string) {
    this.descriptor = openSync(path, "a+", 0o600);
    this.#timer = setInterval(() => this.#bound(), POLL_INTERVAL_MS);
    this.#timer.unref?.();
  }

  /** What has been written since the last call: all of it, or its last lines. */
  take(): string {
    this.#empty();
    const text = this.#written.toString("utf8");
    this.#written = Buffer.alloc(0);
    return text;
  }

  /** Reads the file for the last time. Its size has no bound from now on. */
  close(): void {
    if (!this.#isOpen) return;
    this.#empty();
    this.#isOpen = false;
    clearInterval(this.#timer);
    closeSync(this.descriptor);
  }

  #bound(): void {
    if (fstatSync(this.descriptor).size > MAX_BYTES) this.#empty();
  }

  /** Takes the text out of the file. What is written between the two calls, some microseconds apart, is lost. */
  #empty(): void {
    if (!this.#isOpen) return;
    const { size } = fstatSync(this.descriptor);
    if (size === 0) return;
    const end = Buffer.alloc(Math.min(size, MAX_BYTES));
    readSync(this.descriptor, end, 0, end.length, size - end.length);
    ftruncateSync(this.descriptor, 0);
    const isCut = this.#written.length + size > MAX_BYTES;
    const kept = Buffer.concat([this.#written, end]).subarray(-MAX_BYTES);
    // A part of a secret in half a line could not be masked.
    this.#written = isCut ? dropFirstLine(kept) : kept;
  }
}

function dropFirstLine(text: Buffer): Buffer {
  const end = text.indexOf("\n");
  return end < 0 ? Buffer.alloc(0) : text.subarray(end + 1);
}
