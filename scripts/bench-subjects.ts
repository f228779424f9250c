/** What is measured: the control API in its ways, bare `jupyter lab`, and the original design. */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { freePort } from "../tests/support/helpers.ts";
import { untilUsable } from "./bench-measure.ts";

export const PROJECT = join(import.meta.dirname, "..");
export const PYTHON = join(PROJECT, ".venv", "bin", "python");
const FLASK_VENV = join(import.meta.dirname, ".venv");
export const TOKEN = "benchmark-token";

/** Everything that was started and made: ended and removed at the end, however that comes. */
const children = new Set<ReturnType<typeof Bun.spawn>>();
const folders = new Set<string>();

/** Ends what is left of the benchmark's processes, and removes its folders. */
export async function cleanUp(): Promise<void> {
  for (const child of children) child.kill("SIGTERM");
  await Promise.all([...children].map((child) => child.exited));
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
}

function makeFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "jupyter-server-bench-"));
  folders.add(folder);
  return folder;
}

function baseEnv(): Record<string, string> {
  const { PATH = "", HOME = "", LANG = "C.UTF-8" } = process.env;
  return { PATH, HOME, LANG };
}

function run(command: string[], env: Record<string, string>, cwd: string, cpu?: number) {
  const pinned = cpu === undefined || !Bun.which("taskset") ? command : ["taskset", "-c", String(cpu), ...command];
  const child = Bun.spawn(pinned, { env, cwd, stdin: "ignore", stdout: "ignore", stderr: "pipe", detached: true });
  children.add(child);
  void child.exited.then(() => children.delete(child));
  return child;
}

/** A program that serves, with what it has written to standard error. */
export interface Program {
  child: ReturnType<typeof Bun.spawn>;
  url: string;
  log: () => string;
  stop: () => Promise<void>;
}

function follow(child: ReturnType<typeof run>, url: string): Program {
  let text = "";
  const decoder = new TextDecoder();
  void (async () => {
    for await (const chunk of child.stderr) text = (text + decoder.decode(chunk, { stream: true })).slice(-100_000);
  })();
  const stop = async () => {
    child.kill("SIGTERM");
    await child.exited;
  };
  return { child, url, log: () => text, stop };
}

/** The control API, from source or from a bundle; its JupyterLab listens on `labUrl`. */
export async function startControlApi(
  standby: string,
  entry = join(PROJECT, "index.ts"),
  cpu?: number,
  more: Record<string, string> = {},
) {
  const folder = makeFolder();
  const [port, jupyterPort] = [await freePort(), await freePort()];
  const env = {
    ...baseEnv(),
    PORT: String(port),
    JUPYTER_PORT: String(jupyterPort),
    NOTEBOOK_DIR: join(folder, "notebooks"),
    CONNECTION_FILE: join(folder, "run", "connection.json"),
    JUPYTER_CONFIG_FILE: join(PROJECT, "jupyter_notebook_config.py"),
    PYTHON,
    STANDBY: standby,
    LOG_LEVEL: "debug",
    ...more,
  };
  const startedAt = performance.now();
  const program = follow(run([process.execPath, entry], env, folder, cpu), `http://127.0.0.1:${port}`);
  const launchMs = await untilUsable(`${program.url}/health/live`, startedAt);
  const ready = () => program.log().split("standby ready").length - 1;
  return { ...program, folder, launchMs, ready, labUrl: `http://127.0.0.1:${jupyterPort}` };
}
export type ControlApi = Awaited<ReturnType<typeof startControlApi>>;

/** `jupyter lab` as a user starts it, until it is usable. */
export async function startBare() {
  const folder = makeFolder();
  const port = await freePort();
  const root = process.getuid?.() === 0 ? ["--allow-root"] : [];
  const options = ["--no-browser", `--port=${port}`, "--ServerApp.port_retries=0", `--IdentityProvider.token=${TOKEN}`];
  const startedAt = performance.now();
  const command = [join(dirname(PYTHON), "jupyter"), "lab", ...options, `--ServerApp.root_dir=${folder}`, ...root];
  const env = {
    ...baseEnv(),
    PATH: `${dirname(PYTHON)}:${process.env.PATH}`,
    JUPYTER_RUNTIME_DIR: join(folder, "run"),
  };
  const program = follow(run(command, env, folder), `http://127.0.0.1:${port}/`);
  const usableMs = await untilUsable(`${program.url}api/status?token=${TOKEN}`, startedAt);
  return { ...program, usableMs };
}

/** Why the original design can't be measured here, or undefined where it can: its packages are installed if need be. */
export function prepareFlask(): string | undefined {
  if (existsSync(join(FLASK_VENV, "bin", "gunicorn"))) return undefined;
  mkdirSync(FLASK_VENV, { recursive: true });
  const steps = [
    ["python3", "-m", "venv", FLASK_VENV],
    [join(FLASK_VENV, "bin", "pip"), "install", "--quiet", "-r", join(import.meta.dirname, "flask-requirements.txt")],
  ];
  for (const step of steps) {
    const { exitCode, stderr } = Bun.spawnSync(step, { stderr: "pipe", stdout: "ignore" });
    if (exitCode !== 0) {
      rmSync(FLASK_VENV, { recursive: true, force: true });
      return stderr.toString().trim().split("\n").at(-1) ?? "its packages can't be installed";
    }
  }
  return undefined;
}

/** Whether requests can be counted: `wrk` is installed where it is missing and where that is possible. */
export function prepareLoad(): boolean {
  if (!Bun.which("wrk") && Bun.which("apt-get") && process.getuid?.() === 0) {
    Bun.spawnSync(["sh", "-c", "apt-get update && timeout 120 apt-get install -y --no-install-recommends wrk"]);
  }
  return Boolean(Bun.which("wrk") && Bun.which("taskset"));
}

/** The original design with one worker, answering with `answer`. */
export async function startFlask(answer: unknown, cpu?: number) {
  const folder = makeFolder();
  const port = await freePort();
  const file = join(folder, "connection.json");
  writeFileSync(file, JSON.stringify(answer));
  const startedAt = performance.now();
  const command = [
    join(FLASK_VENV, "bin", "gunicorn"),
    "--workers=1",
    `--bind=127.0.0.1:${port}`,
    "flask_app:create_app()",
  ];
  const env = { ...baseEnv(), CONNECTION_FILE: file, PYTHONDONTWRITEBYTECODE: "1" };
  const program = follow(run(command, env, import.meta.dirname, cpu), `http://127.0.0.1:${port}`);
  const launchMs = await untilUsable(`${program.url}/health/live`, startedAt);
  return { ...program, launchMs };
}

/** Requests per second of one URL by `wrk`, ten connections for one second, away from the server's processor. */
export function requestsPerSecond(url: string, cpu: number): number {
  const { stdout } = Bun.spawnSync(["taskset", "-c", String(cpu), "wrk", "-t1", "-c10", "-d1s", url]);
  return Number(/Requests\/sec:\s+([\d.]+)/.exec(stdout.toString())?.[1] ?? Number.NaN);
}

/** Resident memory in MB, and open descriptors. */
export function readVitals(pid: number): { rssMb: number; descriptors: number } {
  const kb = Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]);
  return { rssMb: kb / 1024, descriptors: readdirSync(`/proc/${pid}/fd`).length };
}

/** How many processes a control API and its starts have: they all have its folder in their environment. */
export function countProcesses({ folder }: ControlApi): number {
  return findProcesses(folder).length;
}

/** The processes that a control API has started, and theirs. */
export function listProcesses({ folder, child }: ControlApi): number[] {
  return findProcesses(folder).filter((pid) => pid !== child.pid);
}

function findProcesses(mark: string): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name) && readText(`/proc/${name}/environ`).includes(mark))
    .map(Number);
}

/** Empty for a process that has ended meanwhile. */
function readText(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}
