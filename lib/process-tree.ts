/** How a whole process tree is ended, and when its end is believed. */
import { setTimeout as sleep } from "node:timers/promises";
import { errorCode } from "./errors.ts";
import { hasMark, isAlive, type ProcessInfo, type ProcessTree, readLastPid, readProcess } from "./procfs.ts";
import { trySignal } from "./spawn.ts";

/** Time between SIGTERM and SIGKILL for what is left of a process tree. */
const TERM_GRACE_MS = 300;
const POLL_PAUSE_MS = 10;
/** So many looks in a row must find nothing, if nothing was forked in the container meanwhile. */
const QUIET_LOOKS = 2;
/** So many must, if something was. */
const BUSY_LOOKS = 5;
/** How long each of those looks follows the newest pids, which are in a loop of forks. */
const HUNT_MS = 10;
/** How many of the newest pids are looked at in each turn of that. */
const NEWEST_PIDS = 4;

/** What is not known to be gone. */
export interface Survivors {
  processes: ProcessInfo[];
  /** The system's error code if it is not known what is left. */
  unknown?: string;
}

/** Looks for a process tree, of which these processes are known. */
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
 * `find` gets what is still alive of its last answer: nothing else may tell by then that it belongs to the tree.
 * Process groups are killed as groups, because a process that forks and ends in a loop is never there when its pid is
 * signalled. Resolves with what is still alive (processes in an uninterruptible wait, or of another user) or unknown.
 */
export async function endProcessTree(find: Find, options: EndOptions): Promise<Survivors> {
  const { graceful, timeoutMs, mark } = options;
  const startedAt = performance.now();
  const elapsed = () => performance.now() - startedAt;
  const looks = new Looks(find);
  if (graceful) {
    let left = looks.look();
    for (const { pid } of left) trySignal(pid, "SIGTERM");
    while (left.length > 0 && elapsed() < Math.min(TERM_GRACE_MS, timeoutMs / 2)) {
      await sleep(POLL_PAUSE_MS);
      left = left.filter(isAlive);
    }
  }
  for (;;) {
    for (const { pid } of looks.look()) trySignal(pid, "SIGKILL");
    for (const group of looks.groups()) trySignal(-group, "SIGKILL");
    if (looks.isConvincing) return { processes: [] };
    if (elapsed() > timeoutMs) return looks.survivors;
    // What is forked in a loop is gone before a whole look has come to it.
    if (looks.isEmpty && looks.hasForked && hunt(mark)) looks.reset();
    await sleep(looks.isEmpty ? 0 : POLL_PAUSE_MS);
  }
}

/** Looks at a process tree, and what they have shown so far. */
class Looks {
  #find: Find;
  #known: ProcessInfo[] = [];
  #unknown: string | undefined;
  /** The groups that were seen, with their leader if it was alive: a member can be forked between two looks. */
  #groups = new Map<number, ProcessInfo | undefined>();
  /** Consecutive looks that found nothing, and those of them during which nothing was forked. */
  #empty = 0;
  #quiet = 0;
  /** Whether something was forked during the last look, by anybody. */
  hasForked = false;

  constructor(find: Find) {
    this.#find = find;
  }

  /** What is alive, as far as that is known. */
  look(): ProcessInfo[] {
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
      // What was known is still killed, and the next look may tell.
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

  /** Whether the tree has ended. */
  get isConvincing(): boolean {
    return this.#quiet >= QUIET_LOOKS || this.#empty >= BUSY_LOOKS;
  }

  get survivors(): Survivors {
    return { processes: this.#known, ...(this.#unknown === undefined ? {} : { unknown: this.#unknown }) };
  }

  /** Believes none of the looks so far. */
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
