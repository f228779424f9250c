/** Processes: the one place that spawns (on Bun and on Deno), and what `/proc` tells of a process and all that it left. */
import { readdirSync, readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

/** How a process ended: an exit code, or the signal that killed it. Both null: it was not our child, so nobody can know. */
export interface Exit {
  code: number | null;
  signal: string | null;
}

/** A child in a session of its own. Whoever spawned it owns it, and has to see it gone. */
export interface Child {
  readonly pid: number;
  /** Settles when the process has ended, and never rejects. */
  readonly exited: Promise<Exit>;
  /** Sends a signal to the process alone; one that is gone already is no error. */
  signal(name: NodeJS.Signals): void;
  /** Writes to its standard input, which stays open until `closeInput`. A child that no longer reads is no error. */
  write(text: string): void;
  closeInput(): void;
  /** What it writes to standard output; has to be read to its end, or the parent's memory grows. */
  readonly output: ReadableStream<Uint8Array>;
}

interface SpawnOptions {
  cwd: string;
  env: Record<string, string>;
  /** Descriptor for standard error. */
  stderr: number;
}

/** Starts `command` without a shell. Rejects with the system's error (`ENOENT`, `EACCES`) where it can't be run. */
export function spawnChild(command: [string, ...string[]], options: SpawnOptions): Promise<Child> {
  return "Bun" in globalThis ? spawnWithBun(command, options) : spawnWithNode(command, options);
}

/** `spawnChild` on Bun. */
export async function spawnWithBun(command: [string, ...string[]], options: SpawnOptions): Promise<Child> {
  const child = Bun.spawn(command, { ...options, stdin: "pipe", stdout: "pipe", detached: true });
  return {
    pid: child.pid,
    exited: child.exited.then((): Exit => {
      return child.signalCode
        ? { code: null, signal: String(child.signalCode) }
        : { code: child.exitCode, signal: null };
    }),
    signal: (name) => sendSignal(child.pid, name),
    // A pipe that is closed is told by a throw or by a rejection, as the moment has it.
    write: (text) => {
      forgive(() => child.stdin.write(text));
      forgive(() => child.stdin.flush());
    },
    closeInput: () => forgive(() => child.stdin.end()),
    output: child.stdout,
  };
}

/** Runs an action whose failure, now or later, is of no account. */
function forgive(action: () => unknown): void {
  new Promise((settle) => settle(action())).catch(() => {});
}

/** `spawnChild` where there is no Bun: on Deno. */
export async function spawnWithNode(command: [string, ...string[]], options: SpawnOptions): Promise<Child> {
  const { spawn } = await import("node:child_process");
  const { Readable } = await import("node:stream");
  const [file, ...args] = command;
  const { cwd, env, stderr } = options;
  const child = spawn(file, args, { cwd, env, detached: true, stdio: ["pipe", "pipe", stderr] });
  const { stdin, stdout } = child;
  if (!stdin || !stdout) throw new Error("A child was spawned without its pipes");
  const exited = new Promise<Exit>((settle) => {
    child.once("exit", (code, signal) => settle({ code, signal: signal === null ? null : String(signal) }));
  });
  stdin.on("error", () => {});
  const pid = await new Promise<number>((settle, reject) => {
    child.once("spawn", () => settle(child.pid ?? 0));
    child.once("error", reject);
  });
  return {
    pid,
    exited,
    signal: (name) => sendSignal(pid, name),
    write: (text) => void stdin.write(text),
    closeInput: () => void stdin.end(),
    output: Readable.toWeb(stdout) as ReadableStream<Uint8Array>,
  };
}

/** Sends a signal to one process; one that is gone already is no error. */
export function sendSignal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

/** A process as `/proc/PID/stat` shows it. Pid and start time together name one process for ever: pids come round again. */
export interface ProcessInfo {
  pid: number;
  ppid: number;
  session: number;
  /** Device number of its terminal; 0 without one. */
  terminal: number;
  /** Start time in clock ticks since boot. */
  startTime: number;
}

/** What `/proc` says of one process; undefined where it is gone or a zombie, which nothing can be done to. */
export function readProcess(pid: number): ProcessInfo | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    // The command's name stands in parentheses and can hold blanks and parentheses itself: count from the last one.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    if (fields[0] === "Z" || fields[0] === "X") return undefined;
    const [, ppid, , session, terminal] = fields.map(Number);
    return { pid, ppid: ppid ?? 0, session: session ?? 0, terminal: terminal ?? 0, startTime: Number(fields[19]) };
  } catch {
    return undefined;
  }
}

/** Names this run of the machine: pids and start times mean something within it only. Empty where nobody says. */
export function readBootId(): string {
  return readTextFile("/proc/sys/kernel/random/boot_id").trim();
}

/** Resident memory of a process in bytes; 0 where it is gone. */
export function readResidentBytes(pid: number): number {
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(readTextFile(`/proc/${pid}/status`))?.[1] ?? 0) * 1024;
}

/** Whether this very process, not a later one with its pid, is still there. */
export function isAlive(info: ProcessInfo): boolean {
  return readProcess(info.pid)?.startTime === info.startTime;
}

/**
 * Everything that belongs to a JupyterLab: its descendants, the members of their sessions, and every process whose
 * environment says so (`NAME=value`), which finds what a kernel detached and what was handed to pid 1 after its parent's
 * death. Never this process, nor one above it. Where there is no `/proc` the list is empty.
 */
export function findFamily(roots: readonly ProcessInfo[], mark: string): ProcessInfo[] {
  const all = listProcesses();
  const strangers = ownLine(all);
  const family = new Map<number, ProcessInfo>();
  const sessions = new Set(roots.map((root) => root.session));
  const candidates = [...all.values()].filter((info) => !strangers.has(info.pid));
  const adopt = (info: ProcessInfo) => {
    family.set(info.pid, info);
    sessions.add(info.session);
  };
  for (const root of roots) if (isAlive(root)) adopt(root);
  for (const info of candidates) if (hasMark(info.pid, mark)) adopt(info);
  for (const pid of strangers) sessions.delete(all.get(pid)?.session ?? 0);
  for (let size = -1; size !== family.size; ) {
    size = family.size;
    for (const info of candidates) {
      if (!family.has(info.pid) && (family.has(info.ppid) || sessions.has(info.session))) adopt(info);
    }
  }
  return [...family.values()];
}

/**
 * The shells of a JupyterLab's terminals, oldest first: its children that have a terminal. Busy is one that has a process
 * in its session beside it; a program that a shell was replaced by (`exec`) is taken for an idle shell.
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
function ownLine(all: Map<number, ProcessInfo>): Set<number> {
  const line = new Set<number>([1]);
  for (let pid = process.pid; pid > 1 && !line.has(pid); pid = all.get(pid)?.ppid ?? 0) line.add(pid);
  return line;
}

/** Another user's environment can't be read; such a process is not ours either. */
function hasMark(pid: number, mark: string): boolean {
  try {
    return `\0${readFileSync(`/proc/${pid}/environ`, "latin1")}`.includes(`\0${mark}\0`);
  } catch {
    return false;
  }
}

/** A file's text; empty where it can't be read. */
export function readTextFile(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}

/** How often the kernel's out-of-memory killer has struck: in this container where its counters can be read, else anywhere. */
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

/** Waits for a promise, but not for ever: whether it settled within the time. */
export async function settlesWithin(promise: Promise<unknown>, ms: number): Promise<boolean> {
  const timeout = Promise.withResolvers<boolean>();
  const timer = setTimeout(() => timeout.resolve(false), Math.max(0, ms));
  try {
    const settled = promise.then(
      () => true,
      () => true,
    );
    return await Promise.race([settled, timeout.promise]);
  } finally {
    clearTimeout(timer);
  }
}

/** How long a process that is left over has between SIGTERM and SIGKILL. */
const SWEEP_GRACE_MS = 300;
const SWEEP_POLL_MS = 10;

/**
 * Ends all that is left of a family: asks first where `graceful`, then kills, until nothing is found or the time is up.
 * Resolves with what could not be ended, which is nothing but a process in an uninterruptible wait.
 */
export async function sweepFamily(
  find: () => ProcessInfo[],
  { graceful, timeoutMs }: { graceful: boolean; timeoutMs: number },
): Promise<ProcessInfo[]> {
  const begun = performance.now();
  const elapsed = () => performance.now() - begun;
  let left = find();
  if (graceful) {
    for (const { pid } of left) trySignal(pid, "SIGTERM");
    while (left.length > 0 && elapsed() < Math.min(SWEEP_GRACE_MS, timeoutMs / 2)) {
      await sleep(SWEEP_POLL_MS);
      left = left.filter(isAlive);
    }
    left = find();
  }
  while (left.length > 0) {
    for (const { pid } of left) trySignal(pid, "SIGKILL");
    if (elapsed() > timeoutMs) break;
    await sleep(SWEEP_POLL_MS);
    left = find();
  }
  return left;
}

/** A process of another user can't be signalled; it is reported as left. */
function trySignal(pid: number, name: NodeJS.Signals): void {
  try {
    sendSignal(pid, name);
  } catch {
    // EPERM: the caller sees it in the list of what is left.
  }
}
