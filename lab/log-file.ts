/** JupyterLab's log file: written by JupyterLab itself, read here line by line, passed on and rotated. */
import { closeSync, copyFileSync, fchmodSync, fstatSync, ftruncateSync, mkdirSync, openSync, readSync } from "node:fs";
import { dirname } from "node:path";
import type { Secrets } from "../lib/redact.ts";
import { RingBuffer } from "../lib/ring.ts";

/** The log file is rotated at this size, and one older file is kept: 20 MiB in all. */
const MAX_LOG_BYTES = 10 * 1024 * 1024;
/** At least this many lines are kept in memory. */
export const MAX_LINES = 1000;
const MAX_LINE_CHARS = 8192;
/** An unfinished line that reaches this length is cut to half of it. Far less of a line is shown. */
const MAX_REST_CHARS = 8 * MAX_LINE_CHARS;
/** When unread output exceeds the file's limit this many times, it is skipped. */
const FLOOD_FACTOR = 4;
const CHUNK_BYTES = 64 * 1024;
const RESTORE_BYTES = 256 * 1024;
/** One pass reads at most this much, so that a flood of output does not block requests. */
const MAX_PASS_BYTES = 4 * 1024 * 1024;
const POLL_INTERVAL_MS = 100;

/**
 * The log file. JupyterLab and its kernels hold it open for appending, so they need no reader and outlive the control API.
 * Rotation therefore copies the file and truncates it.
 */
export class LogFile {
  readonly path: string;
  /** Its complete lines, masked and numbered from the start of this program. */
  readonly lines = new RingBuffer<string>(MAX_LINES);
  #descriptor: number | undefined;
  #offset = 0;
  #rest = "";
  #decoder = new TextDecoder();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #secrets: Secrets;
  #pass: (line: string) => void;
  #maxBytes: number;

  /** `pass` gets every line, masked and without its newline. The file is not opened before `open`. */
  constructor(path: string, secrets: Secrets, pass: (line: string) => void, maxBytes = MAX_LOG_BYTES) {
    this.path = path;
    this.#maxBytes = maxBytes;
    this.#secrets = secrets;
    this.#pass = pass;
  }

  /** Opens the file at its end, with mode 0600, and follows it. Throws the system's error. */
  open(): number {
    if (this.#descriptor === undefined) {
      mkdirSync(dirname(this.path), { recursive: true, mode: 0o700 });
      this.#descriptor = openSync(this.path, "a+", 0o600);
      fchmodSync(this.#descriptor, 0o600);
      this.#offset = fstatSync(this.#descriptor).size;
      this.#follow();
    }
    return this.#descriptor;
  }

  /**
   * Opens the file and loads its last lines. They are not passed on, because an earlier program did that. Throws the
   * system's error.
   */
  restore(): void {
    const descriptor = this.open();
    const { size } = fstatSync(descriptor);
    const start = Math.max(0, size - RESTORE_BYTES);
    const chunk = Buffer.alloc(size - start);
    readSync(descriptor, chunk, 0, chunk.length, start);
    const lines = chunk.toString("utf8").split("\n");
    // The first line may be cut; the last one is empty if the file ends with a newline.
    for (const line of lines.slice(start > 0 ? 1 : 0, -1)) this.#keep(line);
    this.#rest = lines.at(-1) ?? "";
  }

  /** Reads what has been written, and returns the number of the last line: `since` gives the lines after it. */
  mark(): number {
    this.#read();
    return this.lines.count;
  }

  /** The lines after a mark that are still kept (at least 1,000), masked. Reads what has been written first. */
  since(mark: number): string[] {
    this.#read();
    const lines = this.lines.after(mark);
    return this.#rest ? [...lines, this.#secrets.mask(this.#rest)] : lines;
  }

  /** Reads to the end and closes the file. Readers of `lines` are done then. */
  close(): void {
    clearTimeout(this.#timer);
    if (this.#descriptor !== undefined) {
      this.#read();
      if (this.#rest) this.#add(this.#rest);
      this.#rest = "";
      closeSync(this.#descriptor);
      this.#descriptor = undefined;
    }
    this.lines.close();
  }

  #follow(waitMs = POLL_INTERVAL_MS): void {
    this.#timer = setTimeout(() => this.#follow(this.#read() ? POLL_INTERVAL_MS : 0), waitMs);
    this.#timer.unref?.();
  }

  /** Reads one pass. False if there is more, which is read after other work had its turn. */
  #read(): boolean {
    const descriptor = this.#descriptor;
    if (descriptor === undefined) return true;
    const isAtEnd = this.#readToEnd(descriptor);
    if (isAtEnd && this.#offset >= this.#maxBytes) this.#rotate(descriptor);
    if (!isAtEnd) this.#skipFlood(descriptor);
    return isAtEnd;
  }

  /** Output that comes faster than it is read must not fill the disk: the unread part is dropped, with a line that says so. */
  #skipFlood(descriptor: number): void {
    const { size } = fstatSync(descriptor);
    if (size < FLOOD_FACTOR * this.#maxBytes) return;
    ftruncateSync(descriptor, 0);
    this.#add(`[${size - this.#offset} bytes of output skipped: it came faster than it could be read]`);
    this.#offset = 0;
    this.#rest = "";
  }

  /** Reads up to the limit of one pass. False if there is more. */
  #readToEnd(descriptor: number): boolean {
    const chunk = Buffer.allocUnsafe(CHUNK_BYTES);
    for (let passed = 0; passed < MAX_PASS_BYTES; ) {
      const size = readSync(descriptor, chunk, 0, CHUNK_BYTES, this.#offset);
      if (size === 0) {
        if (fstatSync(descriptor).size < this.#offset) this.#offset = 0;
        return true;
      }
      this.#offset += size;
      passed += size;
      this.#split(this.#decoder.decode(chunk.subarray(0, size), { stream: true }));
    }
    return false;
  }

  /** Output that is written between the last read and the truncation, some microseconds later, is lost. */
  #rotate(descriptor: number): void {
    try {
      copyFileSync(this.path, `${this.path}.1`);
    } catch {
      // On a full disk the bound matters more than the older file.
    }
    this.#readToEnd(descriptor);
    ftruncateSync(descriptor, 0);
    this.#offset = 0;
  }

  #split(text: string): void {
    const parts = (this.#rest + text).split("\n");
    const rest = parts.pop() ?? "";
    for (const part of parts) this.#add(part);
    // A line is masked before it is cut to its shown length, so that no secret is cut in two.
    this.#rest = rest.length > MAX_REST_CHARS ? rest.slice(0, MAX_REST_CHARS / 2) : rest;
  }

  #add(text: string): void {
    this.#pass(this.#keep(text));
  }

  #keep(text: string): string {
    const line = this.#secrets.mask(text.replace(/\r$/, "")).slice(0, MAX_LINE_CHARS);
    this.lines.add(line);
    return line;
  }
}
