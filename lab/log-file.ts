/** JupyterLab's output: a bounded file that it writes by itself, read here line by line and passed on. */
import { closeSync, copyFileSync, fchmodSync, fstatSync, ftruncateSync, mkdirSync, openSync, readSync } from "node:fs";
import { dirname } from "node:path";
import type { Secrets } from "../lib/redact.ts";
import { Feed } from "../lib/ring.ts";

/** A log file is rotated at this size, and one older file is kept beside it: 20 MiB in all. */
const MAX_LOG_BYTES = 10 * 1024 * 1024;
/** So many lines are kept at least. */
export const MAX_LINES = 1000;
const MAX_LINE_CHARS = 8192;
/** An unfinished line is kept to this, and then cut to half of it: far beyond what is shown of it. */
const MAX_REST_CHARS = 8 * MAX_LINE_CHARS;
/** Output that is this many times the file's limit behind is skipped. */
const FLOOD_FACTOR = 4;
const CHUNK_BYTES = 64 * 1024;
const RESTORE_BYTES = 256 * 1024;
/** One pass reads at most this much, so that a flood of output does not keep requests waiting. */
const MAX_PASS_BYTES = 4 * 1024 * 1024;
const POLL_INTERVAL_MS = 100;

/**
 * The log file. JupyterLab holds it open for appending and needs nobody at the other end, so that it outlives the
 * control API; rotation copies the file and empties it, because every kernel holds the same file.
 */
export class Output {
  readonly path: string;
  /** Its whole lines, masked, numbered from the program's start on. */
  readonly lines = new Feed<string>(MAX_LINES);
  #descriptor: number | undefined;
  #offset = 0;
  #rest = "";
  #decoder = new TextDecoder();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #secrets: Secrets;
  #pass: (line: string) => void;
  #maxBytes: number;

  /** `pass` gets every line, masked and without its newline. Nothing is opened before `open`. */
  constructor(path: string, secrets: Secrets, pass: (line: string) => void, maxBytes = MAX_LOG_BYTES) {
    this.path = path;
    this.#maxBytes = maxBytes;
    this.#secrets = secrets;
    this.#pass = pass;
  }

  /** Opens the file at its end, readable by its owner only, and begins to follow it. Throws the system's error. */
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
   * Opens the file and takes its last lines over as if they had been read here. They are not passed on: whoever wrote them
   * has done that. Throws the system's error.
   */
  restore(): void {
    const descriptor = this.open();
    const { size } = fstatSync(descriptor);
    const start = Math.max(0, size - RESTORE_BYTES);
    const chunk = Buffer.alloc(size - start);
    readSync(descriptor, chunk, 0, chunk.length, start);
    const lines = chunk.toString("utf8").split("\n");
    // The first may be cut, and the last is empty where the file ends with a line.
    for (const line of lines.slice(start > 0 ? 1 : 0, -1)) this.#keep(line);
    this.#rest = lines.at(-1) ?? "";
  }

  /** A place in the stream of lines: `since` gives what comes after it. */
  mark(): number {
    this.#read();
    return this.lines.count;
  }

  /** The lines after a mark, as far as they are kept (the last 1,000), masked. Reads what has been written until now. */
  since(mark: number): string[] {
    this.#read();
    const lines = this.lines.after(mark);
    return this.#rest ? [...lines, this.#secrets.mask(this.#rest)] : lines;
  }

  /** Reads to the end and closes the file; who reads along is done then. */
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

  /** False: there is more, and it is read after other work had its turn. */
  #read(): boolean {
    const descriptor = this.#descriptor;
    if (descriptor === undefined) return true;
    const isAtEnd = this.#readToEnd(descriptor);
    if (isAtEnd && this.#offset >= this.#maxBytes) this.#rotate(descriptor);
    if (!isAtEnd) this.#skipFlood(descriptor);
    return isAtEnd;
  }

  /** Whoever writes faster than anybody reads must not fill the disk: what is far behind is given up, and said. */
  #skipFlood(descriptor: number): void {
    const { size } = fstatSync(descriptor);
    if (size < FLOOD_FACTOR * this.#maxBytes) return;
    ftruncateSync(descriptor, 0);
    this.#add(`[${size - this.#offset} bytes of output skipped: it came faster than it could be read]`);
    this.#offset = 0;
    this.#rest = "";
  }

  /** Reads what there is, up to the limit of one pass. False: there is more. */
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

  /** What is written between the last read and the cut, some microseconds later, is lost. */
  #rotate(descriptor: number): void {
    try {
      copyFileSync(this.path, `${this.path}.1`);
    } catch {
      // A full disk: the bound matters more than the older file.
    }
    this.#readToEnd(descriptor);
    ftruncateSync(descriptor, 0);
    this.#offset = 0;
  }

  #split(text: string): void {
    const parts = (this.#rest + text).split("\n");
    const rest = parts.pop() ?? "";
    for (const part of parts) this.#add(part);
    // What is shown of a line is masked with what follows it, so that no secret is cut in two; the rest is not kept.
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
