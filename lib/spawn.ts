/** The one place that spawns a process, on Bun and on Deno. */

/** How a process ended: an exit code or a signal. Both are null where that is not known. */
export interface Exit {
  code: number | null;
  signal: string | null;
}

/** How a process ends that was killed. */
export const KILLED: Exit = { code: null, signal: "SIGKILL" };

/** A process, whoever has started it. */
export interface Process {
  readonly pid: number;
  /** Settles when the process has ended. Never rejects. */
  readonly exited: Promise<Exit>;
  /** Sends a signal to this process alone. No error if it is gone. */
  signal(name: NodeJS.Signals): void;
}

/** A child process in a session of its own. */
export interface Child extends Process {
  /** Writes to its standard input, which stays open until `closeInput`. No error if the child no longer reads. */
  write(text: string): void;
  closeInput(): void;
  /** Its standard output. It has to be read to the end, otherwise this process's memory grows. */
  readonly output: ReadableStream<Uint8Array>;
}

interface SpawnOptions {
  cwd: string;
  env: Record<string, string>;
  /** Descriptor for standard error. */
  stderr: number;
}

/** Runs `command` without a shell. Rejects with the system's error (`ENOENT`, `EACCES`) if it can't be run. */
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
    // Bun reports a closed pipe by a throw or by a rejection, depending on the moment.
    write: (text) => {
      ignoreFailure(() => child.stdin.write(text));
      ignoreFailure(() => child.stdin.flush());
    },
    closeInput: () => ignoreFailure(() => child.stdin.end()),
    output: child.stdout,
  };
}

/** Runs an action and ignores its failure, whether it throws or rejects. */
function ignoreFailure(action: () => unknown): void {
  new Promise((settle) => settle(action())).catch(() => {});
}

/** `spawnChild` with `node:child_process`, for Deno. */
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

/** Sends a signal to one process. No error if it is gone; throws `EPERM` for another user's process. */
export function sendSignal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

/** Sends a signal to one process, or to a group by its negative number. No error if that is another user's. */
export function trySignal(pid: number, name: NodeJS.Signals): void {
  try {
    sendSignal(pid, name);
  } catch {
    // EPERM: the process stays alive, which the next scan shows.
  }
}

/** Waits for a promise for at most `ms`, or until `signal`. Resolves with whether it settled in that time. */
export async function settlesWithin(promise: Promise<unknown>, ms: number, signal?: AbortSignal): Promise<boolean> {
  const timeout = Promise.withResolvers<boolean>();
  const giveUp = () => timeout.resolve(false);
  const timer = setTimeout(giveUp, Math.max(0, ms));
  signal?.addEventListener("abort", giveUp);
  if (signal?.aborted) giveUp();
  try {
    const settled = promise.then(
      () => true,
      () => true,
    );
    return await Promise.race([settled, timeout.promise]);
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", giveUp);
  }
}
