/** How a whole process tree is ended, and when it counts as gone. */
import { setTimeout as sleep } from "node:timers/promises";
import { errorCode } from "./errors.ts";
import { hasMark, isAlive, type ProcessInfo, type ProcessTree, readLastPid, readProcess } from "./procfs.ts";
import { trySignal } from "./spawn.ts";

/** Time between SIGTERM and SIGKILL for what is left of a process tree. */
const TERM_GRACE_MS = 300;
const POLL_PAUSE_MS = 10;
/** A tree is gone once this many scans in a row have found nothing, and nothing was forked in the container meanwhile … */
const QUIET_SCANS = 2;
/** … or this many, if something was forked. */
const BUSY_SCANS = 5;
/** How long the newest pids are watched after an empty scan during which something was forked. */
const HUNT_MS = 10;
/** How many of the newest pids are checked each time. */
const NEWEST_PIDS = 4;

/** What is not known to be gone. */
export interface Survivors {
  processes: ProcessInfo[];
  /** The system's error code if it is not known what is left. */
  unknown?: string;
}

/** Finds a process tree, of which these processes are known. */
type Find = (known: readonly ProcessInfo[]) => ProcessTree;

interface EndOptions {
  /** Whether each process gets SIGTERM before SIGKILL. */
  graceful: boolean;
  timeoutMs: number;
  /** The mark of every process of the tree (`NAME=value`). */
  mark: string;
}

/**
 * Ends a process tree: with SIGTERM first if `graceful`, then with SIGKILL, until `find` finds nothing or the time is up.
 * `find` gets what is still alive of its last answer: nothing else may show by then that it belongs to the tree.
 * Process groups are killed as groups, because a process that forks and ends in a loop is never there when its pid is
 * signalled. Resolves with what is still alive (processes in an uninterruptible wait, or of another user) or unknown.
 */
export async function endProcessTree(find: Find, options: EndOptions): Promise<Survivors> {
  const { graceful, timeoutMs, mark } = options;
  const startedAt = performance.now();
  const elapsed = () => performance.now() - startedAt;
  const scanner = new Scanner(find);
  if (graceful) {
    let left = scanner.scan();
    for (const { pid } of left) trySignal(pid, "SIGTERM");
    while (left.length > 0 && elapsed() < Math.min(TERM_GRACE_MS, timeoutMs / 2)) {
      await sleep(POLL_PAUSE_MS);
      left = left.filter(isAlive);
    }
  }
  for (;;) {
    for (const { pid } of scanner.scan()) trySignal(pid, "SIGKILL");
    for (const group of scanner.groups()) trySignal(-group, "SIGKILL");
    if (scanner.isGone) return { processes: [] };
    if (elapsed() > timeoutMs) return scanner.survivors;
    // What is forked in a loop is gone before a whole scan has come to it.
    if (scanner.isEmpty && scanner.hasForked && hunt(mark)) scanner.reset();
    await sleep(scanner.isEmpty ? 0 : POLL_PAUSE_MS);
  }
}

/** Scans for the processes of a tree, and keeps what the scans so far have shown. */
class Scanner {
  #find: Find;
  #known: ProcessInfo[] = [];
  #unknown: string | undefined;
  /** The groups that were seen, with their leader if it was alive: a member can be forked between two scans. */
  #groups = new Map<number, ProcessInfo | undefined>();
  /** Consecutive scans that found nothing, and those of them during which nothing was forked. */
  #empty = 0;
  #quiet = 0;
  /** Whether anything in the container was forked during the last scan. */
  hasForked = false;

  constructor(find: Find) {
    this.#find = find;
  }

  /** What is alive, as far as that is known. */
  scan(): ProcessInfo[] {
    const before = readLastPid();
    try {
      const { processes, groups } = this.#find(this.#known.filter(isAlive));
      this.#unknown = undefined;
      this.#known = processes;
      for (const group of groups)
        if (!this.#groups.has(group))
          this.#groups.set(
            group,
            processes.find(({ pid }) => pid === group),
          );
    } catch (error) {
      // What was known is still killed, and the next scan may succeed.
      this.#unknown = errorCode(error);
      this.#known = this.#known.filter(isAlive);
    }
    this.hasForked = readLastPid() !== before;
    this.#empty = this.isEmpty ? this.#empty + 1 : 0;
    this.#quiet = this.isEmpty && !this.hasForked ? this.#quiet + 1 : 0;
    return this.#known;
  }

  /** The groups that were seen and can still have members. Their number is not given to a process while they have. */
  groups(): number[] {
    return [...this.#groups].flatMap(([group, leader]) => {
      try {
        const now = readProcess(group);
        return now === undefined || now.startTime === leader?.startTime ? [group] : [];
      } catch {
        return [];
      }
    });
  }

  get isEmpty(): boolean {
    return this.#known.length === 0 && this.#unknown === undefined;
  }

  /** Whether enough scans have found nothing. */
  get isGone(): boolean {
    return this.#quiet >= QUIET_SCANS || this.#empty >= BUSY_SCANS;
  }

  get survivors(): Survivors {
    return { processes: this.#known, ...(this.#unknown === undefined ? {} : { unknown: this.#unknown }) };
  }

  /** Counts the scans anew: something was still running. */
  reset(): void {
    this.#empty = 0;
    this.#quiet = 0;
  }
}

/** Kills processes with the mark as soon as they are forked. Returns whether there was one. */
function hunt(mark: string): boolean {
  const limit = performance.now() + HUNT_MS;
  let found = false;
  while (performance.now() < limit) {
    const newest = readLastPid();
    for (let pid = newest; pid > Math.max(1, newest - NEWEST_PIDS); pid -= 1) {
      if (pid === process.pid || !isMarked(pid, mark)) continue;
      trySignal(pid, "SIGKILL");
      found = true;
    }
  }
  return found;
}

function isMarked(pid: number, mark: string): boolean {
  try {
    return hasMark(pid, mark) && readProcess(pid) !== undefined;
  } catch {
    return false;
  }
}
