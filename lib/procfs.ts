/** What `/proc` tells of processes, and how a whole process tree is found and ended. */
import { readdirSync, readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { readTextFile } from "./files.ts";
import { sendSignal } from "./spawn.ts";

/** A process as `/proc/PID/stat` shows it. Pid and start time together identify it for ever; a pid alone is reused. */
export interface ProcessInfo {
  pid: number;
  ppid: number;
  session: number;
  /** Device number of its terminal; 0 without one. */
  terminal: number;
  /** Start time in clock ticks since boot. */
  startTime: number;
}

/** What `/proc` says of a process; undefined when it is gone or a zombie. */
export function readProcess(pid: number): ProcessInfo | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    // The command's name is in parentheses and can contain blanks and parentheses: the fields begin after the last one.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    if (fields[0] === "Z" || fields[0] === "X") return undefined;
    const [, ppid, , session, terminal] = fields.map(Number);
    return { pid, ppid: ppid ?? 0, session: session ?? 0, terminal: terminal ?? 0, startTime: Number(fields[19]) };
  } catch {
    return undefined;
  }
}

/** Identifies this boot of the machine: pids and start times have a meaning within one boot only. Empty if unknown. */
export function readBootId(): string {
  return readTextFile("/proc/sys/kernel/random/boot_id").trim();
}

/** Resident memory of a process in bytes; 0 when it is gone. */
export function readResidentBytes(pid: number): number {
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(readTextFile(`/proc/${pid}/status`))?.[1] ?? 0) * 1024;
}

/** Memory of a process in bytes, with its share of what it shares with others (PSS); 0 when it is gone. */
export function readProportionalBytes(pid: number): number {
  return Number(/^Pss:\s+(\d+) kB/m.exec(readTextFile(`/proc/${pid}/smaps_rollup`))?.[1] ?? 0) * 1024;
}

/** Whether this very process, and not a later one with the same pid, still exists. */
export function isAlive(info: ProcessInfo): boolean {
  return readProcess(info.pid)?.startTime === info.startTime;
}

/**
 * Everything that belongs to a JupyterLab: its descendants, the members of their sessions, and every process whose
 * environment contains `mark` (`NAME=value`). The mark finds what a kernel detached, and what pid 1 inherited when its
 * parent died. This process and its ancestors are never included. Without `/proc` the list is empty.
 */
export function findProcessTree(roots: readonly ProcessInfo[], mark: string): ProcessInfo[] {
  const all = listProcesses();
  const ancestors = listAncestors(all);
  const tree = new Map<number, ProcessInfo>();
  const sessions = new Set(roots.map((root) => root.session));
  const candidates = [...all.values()].filter((info) => !ancestors.has(info.pid));
  const include = (info: ProcessInfo) => {
    tree.set(info.pid, info);
    sessions.add(info.session);
  };
  for (const root of roots) if (isAlive(root)) include(root);
  for (const info of candidates) if (hasMark(info.pid, mark)) include(info);
  for (const pid of ancestors) sessions.delete(all.get(pid)?.session ?? 0);
  for (let size = -1; size !== tree.size; ) {
    size = tree.size;
    for (const info of candidates) {
      if (!tree.has(info.pid) && (tree.has(info.ppid) || sessions.has(info.session))) include(info);
    }
  }
  return [...tree.values()];
}

/**
 * The shells of a JupyterLab's terminals, oldest first: its children that have a terminal. A shell is busy when its
 * session has another process. A program that replaced its shell (`exec`) counts as an idle shell.
 */
export function listShells(labPid: number): { pid: number; busy: boolean }[] {
  const all = [...listProcesses().values()];
  return all
    .filter(({ ppid, terminal }) => ppid === labPid && terminal !== 0)
    .sort((a, b) => a.startTime - b.startTime || a.pid - b.pid)
    .map(({ pid }) => ({
      pid,
      busy: all.some((info) => info.pid !== pid && (info.ppid === pid || info.session === pid)),
    }));
}

function listProcesses(): Map<number, ProcessInfo> {
  const found = new Map<number, ProcessInfo>();
  let names: string[] = [];
  try {
    names = readdirSync("/proc");
  } catch {
    return found;
  }
  for (const name of names) {
    const info = /^\d+$/.test(name) ? readProcess(Number(name)) : undefined;
    if (info) found.set(info.pid, info);
  }
  return found;
}

/** This process and its ancestors. */
function listAncestors(all: Map<number, ProcessInfo>): Set<number> {
  const line = new Set<number>([1]);
  for (let pid = process.pid; pid > 1 && !line.has(pid); pid = all.get(pid)?.ppid ?? 0) line.add(pid);
  return line;
}

/** Another user's environment can't be read; such a process does not belong to this program. */
function hasMark(pid: number, mark: string): boolean {
  try {
    return `\0${readFileSync(`/proc/${pid}/environ`, "latin1")}`.includes(`\0${mark}\0`);
  } catch {
    return false;
  }
}

/** How often the kernel's out-of-memory killer has acted: in this container if its counters can be read, else anywhere. */
export function countOomKills(): number {
  const sources: [string, RegExp][] = [
    ["/sys/fs/cgroup/memory.events", /^oom_kill (\d+)/m],
    ["/sys/fs/cgroup/memory/memory.oom_control", /^oom_kill (\d+)/m],
    ["/proc/vmstat", /^oom_kill (\d+)/m],
  ];
  for (const [file, pattern] of sources) {
    const count = pattern.exec(readTextFile(file))?.[1];
    if (count !== undefined) return Number(count);
  }
  return 0;
}

/** Time between SIGTERM and SIGKILL for what is left of a process tree. */
const TERM_GRACE_MS = 300;
const POLL_PAUSE_MS = 10;

/**
 * Ends a process tree: with SIGTERM first if `graceful`, then with SIGKILL, until `find` finds nothing or the time is up.
 * Resolves with what is still alive: processes in an uninterruptible wait, or of another user.
 */
export async function endProcessTree(
  find: () => ProcessInfo[],
  { graceful, timeoutMs }: { graceful: boolean; timeoutMs: number },
): Promise<ProcessInfo[]> {
  const startedAt = performance.now();
  const elapsed = () => performance.now() - startedAt;
  let left = find();
  if (graceful) {
    for (const { pid } of left) trySignal(pid, "SIGTERM");
    while (left.length > 0 && elapsed() < Math.min(TERM_GRACE_MS, timeoutMs / 2)) {
      await sleep(POLL_PAUSE_MS);
      left = left.filter(isAlive);
    }
    left = find();
  }
  while (left.length > 0) {
    for (const { pid } of left) trySignal(pid, "SIGKILL");
    if (elapsed() > timeoutMs) break;
    await sleep(POLL_PAUSE_MS);
    left = find();
  }
  return left;
}

/** Another user's process can't be signalled; it stays in the list of what is left. */
function trySignal(pid: number, name: NodeJS.Signals): void {
  try {
    sendSignal(pid, name);
  } catch {
    // EPERM: the caller reports the process as left.
  }
}
