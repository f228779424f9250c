/** What `/proc` tells of processes, and how a whole process tree is found. */
import { readdirSync } from "node:fs";
import { errorCode } from "./errors.ts";
import { readProcFile, withDescriptors } from "./files.ts";

/** A process as `/proc/PID/stat` shows it. Pid and start time together identify it for ever; a pid alone is reused. */
export interface ProcessInfo {
  pid: number;
  ppid: number;
  group: number;
  session: number;
  /** Device number of its terminal; 0 without one. */
  terminal: number;
  /** The process group in the foreground of that terminal; -1 without one. */
  foreground: number;
  /** Processor time that it has used, in clock ticks. */
  cpuTicks: number;
  /** Start time in clock ticks since boot. */
  startTime: number;
}

/** What the system says of a process that does not exist. Any other error means that it is not known. */
const GONE = new Set(["ENOENT", "ESRCH"]);
/** What it says of another user's process, where `/proc` hides those. */
const HIDDEN = new Set(["EACCES", "EPERM"]);

/**
 * What `/proc` says of a process; undefined when it is gone or a zombie. Throws the system's error if that is not known,
 * because no descriptor is left for example.
 */
export function readProcess(pid: number): ProcessInfo | undefined {
  const stat = unlessCode(GONE, () => readProcFile(`/proc/${pid}/stat`));
  if (stat === undefined) return undefined;
  // The command's name is in parentheses and can contain blanks and parentheses: the fields begin after the last one.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  if (fields[0] === "Z" || fields[0] === "X") return undefined;
  const numbers = fields.map(Number);
  const [, ppid = 0, group = 0, session = 0, terminal = 0, foreground = -1] = numbers;
  const [cpuTicks, startTime] = [(numbers[11] ?? 0) + (numbers[12] ?? 0), numbers[19] ?? 0];
  return { pid, ppid, group, session, terminal, foreground, cpuTicks, startTime };
}

/** The result of `read`; undefined if it fails with one of these codes. */
function unlessCode<T>(codes: ReadonlySet<string>, read: () => T): T | undefined {
  try {
    return read();
  } catch (error) {
    if (codes.has(errorCode(error))) return undefined;
    throw error;
  }
}

/** Identifies this boot of the machine: pids and start times have a meaning within one boot only. Empty if unknown. */
export function readBootId(): string {
  return readProcText("/proc/sys/kernel/random/boot_id").trim();
}

/** Resident memory of a process in bytes; 0 when it is gone. */
export function readResidentBytes(pid: number): number {
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(readProcText(`/proc/${pid}/status`))?.[1] ?? 0) * 1024;
}

/** Memory of a process in bytes, with its share of what it shares with others (PSS); 0 when it is gone. */
export function readProportionalBytes(pid: number): number {
  return Number(/^Pss:\s+(\d+) kB/m.exec(readProcText(`/proc/${pid}/smaps_rollup`))?.[1] ?? 0) * 1024;
}

/** Whether this very process, and not a later one with the same pid, still exists. It does if that is not known. */
export function isAlive(info: ProcessInfo): boolean {
  try {
    return readProcess(info.pid)?.startTime === info.startTime;
  } catch {
    return true;
  }
}

/** What belongs to a JupyterLab. */
export interface ProcessTree {
  processes: ProcessInfo[];
  /** Its process groups that have no other member: a signal to one reaches a process that was forked just now too. */
  groups: number[];
}

/**
 * Everything that belongs to a JupyterLab: its descendants, the members of their sessions, and every process whose
 * environment contains `mark` (`NAME=value`). The mark finds what a kernel detached, and what pid 1 inherited when its
 * parent died. This process and its ancestors are never included. Without `/proc` the tree is empty. Throws the system's
 * error if it is not known which processes there are.
 */
export function findProcessTree(roots: readonly ProcessInfo[], mark: string): ProcessTree {
  const all = listProcesses();
  const ancestors = listAncestors(all);
  const tree = new Map<number, ProcessInfo>();
  const sessions = new Set(roots.map((root) => root.session));
  const candidates = [...all.values()].filter((info) => !ancestors.has(info.pid));
  const include = (info: ProcessInfo) => {
    tree.set(info.pid, info);
    sessions.add(info.session);
  };
  for (const root of roots) if (all.get(root.pid)?.startTime === root.startTime) include(root);
  for (const info of candidates) if (hasMark(info.pid, mark)) include(info);
  for (const pid of ancestors) sessions.delete(all.get(pid)?.session ?? 0);
  for (let size = -1; size !== tree.size; ) {
    size = tree.size;
    for (const info of candidates) {
      if (!tree.has(info.pid) && (tree.has(info.ppid) || sessions.has(info.session))) include(info);
    }
  }
  const groups = new Set([...tree.values()].map(({ group }) => group));
  for (const { pid, group } of all.values()) if (!tree.has(pid)) groups.delete(group);
  return { processes: [...tree.values()], groups: [...groups].filter((group) => group > 1) };
}

/** The shell of a terminal, or the program that has replaced it. */
interface Shell {
  pid: number;
  /** Whether another process group is in the foreground: a program runs, even if it is silent. */
  hasForegroundJob: boolean;
  /** Processor time of each process in its session, by pid, in clock ticks. */
  cpuTicks: Map<number, number>;
}

/** The shells of a JupyterLab's terminals, oldest first: its children that have a terminal. */
export function listShells(labPid: number): Shell[] {
  const all = [...listProcesses().values()];
  return all
    .filter(({ ppid, terminal }) => ppid === labPid && terminal !== 0)
    .sort((a, b) => a.startTime - b.startTime || a.pid - b.pid)
    .map(({ pid, group, foreground }) => ({
      pid,
      hasForegroundJob: foreground !== group,
      cpuTicks: new Map(all.filter(({ session }) => session === pid).map((info) => [info.pid, info.cpuTicks])),
    }));
}

/** Every process, the newest pids first: what is forked in a loop has the newest. */
function listProcesses(): Map<number, ProcessInfo> {
  const found = new Map<number, ProcessInfo>();
  const names = unlessCode(GONE, () => withDescriptors(() => readdirSync("/proc"))) ?? [];
  const pids = names.filter((name) => /^\d+$/.test(name)).map(Number);
  for (const pid of pids.reverse()) {
    const info = unlessCode(HIDDEN, () => readProcess(pid));
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

/**
 * Whether a process's environment contains `mark`. Another user's can't be read; such a process does not belong to this
 * program. Throws the system's error if it is not known.
 */
export function hasMark(pid: number, mark: string): boolean {
  return readEnvironment(pid).includes(mark);
}

function readEnvironment(pid: number): string[] {
  const read = () => unlessCode(GONE, () => readProcFile(`/proc/${pid}/environ`));
  return (unlessCode(HIDDEN, read) ?? "").split("\0");
}

/**
 * The variables that begin with `prefix` (`NAME=beginning`) in the environments of processes that nobody owns: their parent
 * has ended, and an ancestor of this process has inherited them. Throws the system's error if it is not known.
 */
export function findOrphanedMarks(prefix: string): string[] {
  const all = listProcesses();
  const ancestors = listAncestors(all);
  ancestors.delete(process.pid);
  const orphans = [...all.values()].filter(({ pid, ppid }) => ancestors.has(ppid) && pid !== process.pid);
  const marks = orphans.map(({ pid }) => readEnvironment(pid).find((variable) => variable.startsWith(prefix)));
  return [...new Set(marks.filter((mark) => mark !== undefined))];
}

/** The pid that was given last in this container; it changes with every fork. 0 if unknown. */
export function readLastPid(): number {
  return Number(readProcText("/proc/loadavg").trim().split(" ")[4] ?? 0);
}

/** How often the kernel's out-of-memory killer has acted: in this container if its counters can be read, else anywhere. */
export function countOomKills(): number {
  const files = ["/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control", "/proc/vmstat"];
  for (const file of files) {
    const count = /^oom_kill (\d+)/m.exec(readProcText(file))?.[1];
    if (count !== undefined) return Number(count);
  }
  return 0;
}

function readProcText(path: string): string {
  try {
    return readProcFile(path);
  } catch {
    return "";
  }
}
