/** JupyterLab's log file: written by JupyterLab itself, read here line by line, passed on and rotated. */
import {
  closeSync,
  constants,
  copyFileSync,
  fstatSync,
  ftruncateSync,
  mkdirSync,
  readSync,
  rmSync,
  writeSync,
} from "node:fs";
import { dirname } from "node:path";
import { setImmediate } from "node:timers/promises";
import { explainShortage } from "../lib/errors.ts";
import type { Secrets } from "../lib/redact.ts";
import type { RingBuffer } from "../lib/ring.ts";
import { LogLines } from "./log-lines.ts";
import { findId, type OpenFile, openFile, openOutput } from "./open-file.ts";

/** The log file is rotated at this size, and one older file is kept: 20 MiB in all. */
const MAX_LOG_BYTES = 10 * 1024 * 1024;
/** When unread output exceeds the file's limit this many times, it is skipped. */
const FLOOD_FACTOR = 4;
/** At most 16,384 lines, all of them empty. */
const CHUNK_BYTES = 16 * 1024;
const RESTORE_BYTES = 256 * 1024;
/** One pass ends after this many bytes, or after the chunk that reaches this many lines: a flood must not block requests. */
const MAX_PASS_BYTES = 4 * 1024 * 1024;
const MAX_PASS_LINES = 10_000;
/** Enough passes to read all that is not skipped as a flood, unless its lines are short. */
const MAX_PASSES = 20;
const POLL_INTERVAL_MS = 100;

/**
 * The log file. JupyterLab and its kernels hold it open for appending, so they need no reader and outlive the control API.
 * Rotation therefore copies the file and truncates it.
 *
 * Somebody else can move or remove it meanwhile. What JupyterLab then writes into the file that it holds is appended to a
 * new one at the path, and the old one is cut to what it was when that was noticed.
 */
export class LogFile {
  readonly path: string;
  /** The file that JupyterLab writes to, read up to `#offset`. */
  #source: OpenFile | undefined;
  #offset = 0;
  /** The file at the path, if that is no longer the source; and the size that the source had when it was moved. */
  #target: OpenFile | undefined;
  #movedAt: number | undefined;
  #lines: LogLines;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #maxBytes: number;

  /** `pass` gets every line, masked and without its newline. The file is not opened before `open`. */
  constructor(path: string, secrets: Secrets, pass: (line: string) => void, maxBytes = MAX_LOG_BYTES) {
    this.path = path;
    this.#maxBytes = maxBytes;
    this.#lines = new LogLines(secrets, pass);
  }

  /** Its complete lines, masked and numbered from the start of this program. */
  get lines(): RingBuffer<string> {
    return this.#lines.kept;
  }

  /** Device and inode of the file that is followed; undefined before the first start. */
  get fileId(): string | undefined {
    return this.#source?.id;
  }

  /**
   * Opens the file at its end, follows it, and returns its descriptor; a new one has mode 0600. Throws the system's error,
   * `EFTYPE` for a FIFO.
   */
  open(): number {
    if (this.#source && findId(this.path) === this.#source.id) return this.#source.descriptor;
    mkdirSync(dirname(this.path), { recursive: true, mode: 0o700 });
    const file = openFile(this.path);
    this.#read();
    this.#lines.end();
    this.#closeFiles();
    this.#source = file;
    this.#offset = fstatSync(file.descriptor).size;
    if (this.#timer === undefined) this.#follow();
    return file.descriptor;
  }

  /** How many bytes of the file have been read: what is written next begins there. */
  get offset(): number {
    return this.#offset;
  }

  /** Appends text, as JupyterLab does; what a full disk does not take is kept in memory. The file has to be open. */
  append(text: string): void {
    if (!this.#source) return;
    let rest = Buffer.from(text);
    try {
      while (rest.length > 0) rest = rest.subarray(writeSync(this.#source.descriptor, rest));
    } catch (error) {
      if (!explainShortage(error, this.path)) throw error;
      this.#read();
      this.#lines.write(rest);
    }
  }

  /**
   * Opens the file of a JupyterLab that has run under an earlier program, and loads its last lines from byte `from` on:
   * before that are the words of an earlier server, whose secrets are not known any more. They are not passed on, because
   * the earlier program did that. Throws the system's error.
   */
  restore(pid: number, from: number): void {
    this.open();
    const own = openOutput(pid);
    if (own && own.id !== this.#source?.id) {
      this.#target = this.#source;
      this.#source = own;
      this.#offset = fstatSync(own.descriptor).size;
      this.#movedAt = this.#offset;
    } else if (own) closeSync(own.descriptor);
    const descriptor = this.#source?.isPlain ? this.#source.descriptor : undefined;
    if (descriptor === undefined) return;
    const { size } = fstatSync(descriptor);
    // A file that is smaller now was cut since then.
    const start = Math.max(0, from > size ? 0 : from, size - RESTORE_BYTES);
    const first = Math.max(0, start - 1);
    const chunk = Buffer.alloc(size - first);
    readSync(descriptor, chunk, 0, chunk.length, first);
    const lines = chunk.toString("utf8").split("\n");
    // With the byte before it the first line is empty, or a part of one; the last one is empty after a newline.
    const rest = lines.length > 1 || start === 0 ? (lines.at(-1) ?? "") : "";
    this.#lines.load(lines.slice(start > 0 ? 1 : 0, -1), rest);
  }

  /** Reads what has been written, and returns the number of the last line: `since` gives the lines after it. */
  mark(): number {
    this.#read();
    return this.lines.count;
  }

  /** The lines after a mark that are still kept (at least 1,000), masked. Reads what has been written first. */
  since(mark: number): string[] {
    this.#read();
    return this.#lines.since(mark);
  }

  /**
   * Reads what a server has written whose processes are gone, and ends its last line: its secrets can be forgotten then. Of
   * a flood only the beginning and the end are read. Other work has its turn meanwhile.
   */
  async finish(): Promise<void> {
    let isAtEnd = this.#read();
    for (let passes = 1; !isAtEnd && passes < MAX_PASSES; passes += 1) {
      await setImmediate();
      isAtEnd = this.#read();
    }
    if (!isAtEnd && this.#source) {
      const { descriptor } = this.#source;
      this.#skipTo(descriptor, fstatSync(descriptor).size - CHUNK_BYTES);
      this.#read();
    }
    this.#lines.end();
  }

  /** Reads to the end and closes the file. Readers of `lines` are done then. */
  close(): void {
    clearTimeout(this.#timer);
    if (this.#source) {
      this.#read();
      this.#lines.end();
      this.#closeFiles();
    }
    this.lines.close();
  }

  #closeFiles(): void {
    for (const file of [this.#source, this.#target]) if (file) closeSync(file.descriptor);
    this.#source = undefined;
    this.#target = undefined;
    this.#movedAt = undefined;
  }

  #follow(waitMs = POLL_INTERVAL_MS): void {
    this.#timer = setTimeout(() => this.#follow(this.#read() ? POLL_INTERVAL_MS : 0), waitMs);
    this.#timer.unref?.();
  }

  /** Reads one pass. False if there is more, which is read after other work had its turn. */
  #read(): boolean {
    const source = this.#source;
    if (!source?.isPlain) return true;
    const isAtEnd = this.#readToEnd(source.descriptor);
    if (isAtEnd) this.#noticeMove(source);
    if (isAtEnd && this.#offset - (this.#movedAt ?? 0) >= this.#maxBytes) this.#rotate(source.descriptor);
    if (!isAtEnd) this.#skipFlood(source.descriptor);
    return isAtEnd;
  }

  /** Puts a file at the path if what is there is not the one that JupyterLab writes to. */
  #noticeMove(source: OpenFile): void {
    const id = findId(this.path);
    if (id === (this.#target ?? source).id) return;
    if (this.#target) closeSync(this.#target.descriptor);
    this.#target = undefined;
    if (id === source.id) {
      this.#movedAt = undefined;
      return;
    }
    this.#movedAt ??= this.#offset;
    try {
      mkdirSync(dirname(this.path), { recursive: true, mode: 0o700 });
      this.#target = openFile(this.path);
    } catch {
      // The next pass tries again; a start reports what is wrong.
    }
  }

  /** Appends what was read to the file at the path. Its bound is that of any log file. */
  #copy(chunk: Buffer): void {
    if (!this.#target) return;
    try {
      writeSync(this.#target.descriptor, chunk);
      if (this.#target.isPlain && fstatSync(this.#target.descriptor).size >= this.#maxBytes) {
        this.#keepOlder();
        ftruncateSync(this.#target.descriptor, 0);
      }
    } catch {
      // On a full disk the lines in memory are what there is.
    }
  }

  /** Output that comes faster than it is read must not fill the disk: the unread part is dropped, with a line that says so. */
  #skipFlood(descriptor: number): void {
    const { size } = fstatSync(descriptor);
    if (size - (this.#movedAt ?? 0) >= FLOOD_FACTOR * this.#maxBytes) this.#truncate(descriptor);
  }

  /** Cuts the file to its beginning. What has not been read is dropped, with a line that says so. */
  #truncate(descriptor: number): void {
    const start = this.#movedAt ?? 0;
    this.#skipTo(descriptor, fstatSync(descriptor).size);
    ftruncateSync(descriptor, start);
    this.#offset = start;
  }

  /** Drops what is unread before this position, with a line that says so. */
  #skipTo(descriptor: number, position: number): void {
    const unread = position - this.#offset;
    if (unread <= 0) return;
    const last = Buffer.alloc(1);
    readSync(descriptor, last, 0, 1, position - 1);
    this.#lines.add(`[${unread} bytes of output skipped: it came faster than it could be read]`);
    this.#lines.drop(last.toString() !== "\n");
    this.#offset = position;
  }

  /** Reads up to the limit of one pass. False if there is more. */
  #readToEnd(descriptor: number): boolean {
    const chunk = Buffer.allocUnsafe(CHUNK_BYTES);
    const lastLine = this.lines.count + MAX_PASS_LINES;
    for (let passed = 0; passed < MAX_PASS_BYTES && this.lines.count < lastLine; ) {
      const size = readSync(descriptor, chunk, 0, CHUNK_BYTES, this.#offset);
      if (size === 0) {
        if (fstatSync(descriptor).size < this.#offset) {
          this.#lines.drop(this.#lines.isUnfinished);
          this.#offset = 0;
          if (this.#movedAt !== undefined) this.#movedAt = 0;
        }
        return true;
      }
      this.#offset += size;
      passed += size;
      this.#copy(chunk.subarray(0, size));
      this.#lines.write(chunk.subarray(0, size));
    }
    return false;
  }

  /** Output that is written just before the truncation, within some microseconds, is lost. */
  #rotate(descriptor: number): void {
    if (this.#movedAt === undefined) this.#keepOlder();
    // What was written while the file was copied.
    this.#readToEnd(descriptor);
    this.#truncate(descriptor);
  }

  /** Copies the file at the path to the one older file. */
  #keepOlder(): void {
    try {
      // Whatever has its name is replaced, and not written into.
      rmSync(`${this.path}.1`, { force: true });
      copyFileSync(this.path, `${this.path}.1`, constants.COPYFILE_EXCL);
    } catch {
      // On a full disk the bound matters more than the older file.
    }
  }
}
