/** Bounds of open connections. Whoever holds many of them must leave descriptors for probes and for a stop. */
import { readdirSync, readFileSync } from "node:fs";
import { errorCode } from "../lib/errors.ts";

const MAX_DESCRIPTORS = 8192;
/** Shares of the process's own limit, which can be far lower. */
const DESCRIPTORS_SHARE = 0.75;
const STREAMS_SHARE = 0.25;
const MAX_STREAMS = 1000;
/** A count takes milliseconds where thousands of descriptors are open. It holds for this long … */
const COUNT_AGE_MS = 100;
/** … and for requests that can take this share of the bound, which the rest of the process's own limit has room for. */
const COUNT_SHARE = 1 / 8;

/** Counts the open descriptors of this process, and says when there are too many for connections to stay open. */
export class Connections {
  /** Event streams that may be open. */
  readonly maxStreams: number;
  #maxDescriptors: number;
  #open = 0;
  /** Descriptors that requests may have taken since the last count. */
  #taken = 0;
  #countedAt = Number.NEGATIVE_INFINITY;

  constructor(limit = readLimit()) {
    this.maxStreams = Math.min(MAX_STREAMS, Math.floor(limit * STREAMS_SHARE));
    this.#maxDescriptors = Math.min(MAX_DESCRIPTORS, Math.floor(limit * DESCRIPTORS_SHARE));
  }

  /**
   * To be asked once for each request, with the number of descriptors that it can take. True: answer it with
   * `Connection: close`, and take nothing that lasts.
   */
  areTooMany(descriptors = 1): boolean {
    this.#taken += descriptors;
    const now = performance.now();
    const isOld = this.#taken > this.#maxDescriptors * COUNT_SHARE || now - this.#countedAt > COUNT_AGE_MS;
    // An attempt without a free descriptor takes no time, and one can be free by now.
    if (isOld || this.#open === Infinity) {
      this.#open = countDescriptors();
      this.#taken = 0;
      this.#countedAt = now;
    }
    return this.#open >= this.#maxDescriptors;
  }
}

/** The soft limit of descriptors; Infinity where the system does not say. */
function readLimit(): number {
  try {
    return Number(/^Max open files +(\d+)/m.exec(readFileSync("/proc/self/limits", "latin1"))?.[1] ?? Infinity);
  } catch {
    return Infinity;
  }
}

function countDescriptors(): number {
  try {
    return readdirSync("/proc/self/fd").length;
  } catch (error) {
    // Without a free descriptor the folder itself can't be read.
    return errorCode(error) === "ENOENT" ? 0 : Infinity;
  }
}
