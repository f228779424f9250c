/** What the tests share: waits, free ports, facts of the system, and programs with an environment of their own. */
import { constants, copyFileSync, readdirSync, readFileSync } from "node:fs";
import { createServer } from "node:net";
import { basename, dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { readProcess } from "../../lib/procfs.ts";

export const PROJECT = join(import.meta.dirname, "..", "..");
export const FAKE = join(import.meta.dirname, "fake-jupyter.ts");
export const PYTHON = process.env.PYTHON ?? join(PROJECT, ".venv", "bin", "python");
/** The programs' PATH: with the Python of the tests, as another one on PATH can be a script that takes seconds, and with a Bun. */
export const PATH = `${dirname(PYTHON)}:${process.env.PATH ?? ""}:${join(PROJECT, "node_modules", ".bin")}`;
const WAIT_LIMIT_MS = 50_000;

// Below those that Linux gives to outgoing connections, and for each worker of `bun test` others.
const WORKER = Number(process.env.BUN_TEST_WORKER_ID ?? 0) % 4;
let lastPort = 10_000 + WORKER * 5000 + Math.floor(Math.random() * 4000);

/** A port that nobody listens on, and that no other call gives. */
export async function freePort(): Promise<number> {
  for (;;) {
    lastPort += 1;
    const port = lastPort;
    const isFree = await new Promise<boolean>((settle) => {
      const server = createServer()
        .on("error", () => settle(false))
        .listen(port, "127.0.0.1", () => server.close(() => settle(true)));
    });
    if (isFree) return port;
  }
}

/** Waits for a condition, never for a time; fails with `what` where it does not come true. */
export async function until<T>(
  what: string,
  check: () => T | Promise<T>,
  limitMs = WAIT_LIMIT_MS,
): Promise<NonNullable<T>> {
  const startedAt = performance.now();
  for (;;) {
    const checkedAt = performance.now();
    const value = await check();
    if (value) return value;
    const now = performance.now();
    if (now > startedAt + limitMs) throw new Error(`Waited in vain for: ${what}`);
    // Checks must not take the processor from what they wait for: the more they cost, and the longer it takes, the fewer.
    await sleep(Math.min(Math.max(20, (now - checkedAt) * 12, (now - startedAt) / 20), 250));
  }
}

/** A program that a test has started. */
interface Started {
  log: string[];
  /** Settles with its exit code once it has ended and its log is complete. */
  ended: () => Promise<number | null>;
}

/** Waits for what a program does; fails at once, with its log, if the program ends before. */
export async function untilProgram<T>(
  what: string,
  { log, ended }: Started,
  check: () => T | Promise<T>,
): Promise<NonNullable<T>> {
  let failure: Error | undefined;
  const end = ended().then((code) => {
    failure = new Error(`The program ended with ${code} before: ${what}\n${log.join("\n")}`);
    throw failure;
  });
  const done = until(what, () => {
    if (failure) throw failure;
    return check();
  });
  return await Promise.race([done, end]);
}

/** Pids of all processes whose command line or environment holds `text`, but this one. */
export function pidsWith(text: string): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .filter((pid) => ["cmdline", "environ"].some((file) => read(`/proc/${pid}/${file}`).includes(text)))
    .map(Number)
    .filter((pid) => readProcess(pid));
}

/** Everything alive that control APIs with their files in this folder have started, the standby included. */
export const findTree = (folder: string) => pidsWith(`${folder}/run/connection.json.lab-`);

export function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}

/**
 * The environment of a standby in whose JupyterLab no test starts a kernel: the template of kernels, which one that lives
 * for a moment makes, costs as much as a start.
 */
export const NO_TEMPLATE = { JUPYTER_DEFAULT_PROVISIONER_NAME: "local-provisioner" };

/** The environment of a control API in a folder of its own, and with a home of its own: nobody's settings are in force. */
export async function makeEnv(folder: string, more: Record<string, string> = {}): Promise<Record<string, string>> {
  const { LANG = "C.UTF-8" } = process.env;
  return {
    PATH,
    HOME: join(folder, "home"),
    LANG,
    PORT: String(await freePort()),
    JUPYTER_PORT: String(await freePort()),
    NOTEBOOK_DIR: join(folder, "notebooks"),
    CONNECTION_FILE: join(folder, "run", "connection.json"),
    JUPYTER_CONFIG_FILE: join(PROJECT, "jupyter_notebook_config.py"),
    PYTHON: FAKE,
    STANDBY: "off",
    ...more,
  };
}

// biome-ignore lint/suspicious/noExplicitAny: an answer of a program under test can be anything
export type Json = any;

/** The command that runs the program under Deno, in the project's folder, at an address. In HOME npx keeps Deno. */
export function denoCommand(host: string, port = "", ...flags: string[]): string[] {
  return [
    "npx",
    "-y",
    "deno@2.9.6",
    "serve",
    "-A",
    "--host",
    host,
    "--port",
    port,
    ...flags,
    join(PROJECT, "index.ts"),
  ];
}

/** Runs `bun index.ts` as a user does, with its files in `folder` and `prefix` before the command. */
export function runProgram(folder: string, more: Record<string, string> = {}, prefix: string[] = []) {
  return runControlApi(folder, [...prefix, process.execPath, join(PROJECT, "index.ts")], more);
}

/** Runs a control API by a command of the test's own, with its files in `folder`. */
export async function runControlApi(
  folder: string,
  command: string[],
  more: Record<string, string> = {},
  cwd = folder,
) {
  const env = await makeEnv(folder, more);
  const child = Bun.spawn(command, { cwd, env, stdout: "pipe", stderr: "pipe" });
  const [output, log]: [string[], string[]] = [[], []];
  const reading = Promise.all([collectLines(child.stdout, output), collectLines(child.stderr, log)]);
  const url = `http://127.0.0.1:${env.PORT}/api/servers/`;
  const ended = () => endOf(child, reading);
  const ready = () => untilProgram("the first answer", { log, ended }, () => isAnswered(url));
  const start = (body: unknown = {}) =>
    fetch(url, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
  const show = async () => {
    const response = await fetch(url);
    return { status: response.status, body: (await response.json()) as Json };
  };
  return { child, env, output, log, url, ready, start, show, ended };
}

/**
 * Bundles a source file into `folder`, beside a copy of Bun, and returns the command that runs it: a checkout can be one
 * that only its owner may enter, and a test runs the program as another user.
 */
export async function bundleProgram(folder: string, entry: string): Promise<[bun: string, bundle: string]> {
  const bun = join(folder, "bun");
  copyFileSync(process.execPath, bun, constants.COPYFILE_FICLONE);
  const entrypoint = join(PROJECT, entry);
  const { success, logs } = await Bun.build({ entrypoints: [entrypoint], target: "bun", outdir: folder });
  if (!success) throw new AggregateError(logs, `${entry} can't be bundled`);
  return [bun, join(folder, basename(entry).replace(/\.ts$/, ".js"))];
}

/** Whether anybody answers there, with any status. */
export const isAnswered = (url: string) => fetch(url).catch(() => undefined);

/** The exit code of a program that has ended and whose output was read to its end. */
export async function endOf(child: { exited: Promise<number> }, reading: Promise<unknown>): Promise<number> {
  const code = await child.exited;
  await reading;
  return code;
}

/** Reads a stream into lines until it ends. */
export async function collectLines(stream: ReadableStream<Uint8Array>, lines: string[]): Promise<void> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const chunk of stream) {
    const parts = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = parts.pop() ?? "";
    lines.push(...parts);
  }
}
