/** The system that the random faults act on: a control API that can be killed, what it has started, and what is true of them. */
import { createHash } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { STATUS_BY_CODE } from "../../lib/errors.ts";
import { readProcess } from "../../lib/procfs.ts";
import { Disk } from "./disk.ts";
import { freeze } from "./freeze.ts";
import { findTree, type Json, makeEnv, PYTHON, read, runProgram, until } from "./helpers.ts";
import { Peers } from "./peers.ts";

const REQUEST_LIMIT_MS = 30_000;
/** A start or a stop that is under way ends within this, on a machine that does other things too. */
const REST_LIMIT_MS = 15_000;
/** What a control API holds open at rest, requests under way and slow clients not counted. */
const MAX_DESCRIPTORS = 60;
/** The usual limit of descriptors. */
const MAX_LIMIT = 1024;

type Program = Awaited<ReturnType<typeof runProgram>>;

/** The state of one sequence of commands. */
export class World implements AsyncDisposable {
  /** Faults of the disk that the connection file and the log are on, and of the notebooks' folder. */
  readonly disk: Disk;
  /** Faults that come over sockets. */
  readonly peers: Peers;
  /** What broke a promise meanwhile: requests can outlive the command that sent them. */
  readonly breaches: string[] = [];
  readonly #folder: string;
  readonly #run: string;
  readonly #notebooks: string;
  readonly #env: Record<string, string>;
  readonly #digest: string;
  #program: Program | undefined;
  #requests = new Set<Promise<void>>();

  private constructor(folder: string, env: Record<string, string>) {
    this.#folder = folder;
    this.#env = env;
    this.#run = join(folder, "run");
    this.#notebooks = join(folder, "notebooks");
    mkdirSync(this.#notebooks);
    mkdirSync(this.#run, { mode: 0o700 });
    for (const name of ["a.ipynb", "b.py", "ü.txt"]) writeFileSync(join(this.#notebooks, name), `${name}\n`.repeat(50));
    this.#digest = this.#digestNotebooks();
    this.disk = new Disk(this.#run, this.#notebooks);
    this.peers = new Peers(Number(env.PORT), Number(env.JUPYTER_PORT));
  }

  static async create(): Promise<World> {
    const folder = mkdtempSync(join(tmpdir(), "jupyter-chaos-"));
    const env = await makeEnv(folder, { PYTHON, STANDBY: "on", STOP_TIMEOUT_S: "4", LOG_LEVEL: "debug" });
    const world = new World(folder, env);
    await world.startControlApi();
    return world;
  }

  /** Whether the control API runs. */
  get isUp(): boolean {
    return this.#program !== undefined;
  }

  async startControlApi(): Promise<void> {
    this.#program = await runProgram(this.#folder, this.#env);
    await this.#program.ready();
  }

  /** Ends the control API by a signal and gives its exit code. */
  async endControlApi(signal: NodeJS.Signals): Promise<number | null> {
    const program = this.#program;
    this.#program = undefined;
    program?.child.kill(signal);
    await Promise.all(this.#requests);
    return (await program?.ended()) ?? null;
  }

  /** Sends a request and checks its answer, whenever that comes. */
  ask(method: string, path: string, body?: object): Promise<void> {
    const program = this.#program;
    if (!program) return Promise.resolve();
    const url = program.url.replace(/\/api\/servers\/$/, path);
    const content = body && { body: JSON.stringify(body), headers: { "content-type": "application/json" } };
    const done = fetch(url, { method, signal: AbortSignal.timeout(REQUEST_LIMIT_MS), ...content }).then(
      async (response) => {
        if (response.ok) return void (await response.text());
        const { code }: Json = await response.json();
        const isKnown = STATUS_BY_CODE[code as keyof typeof STATUS_BY_CODE] === response.status;
        if (!isKnown || code === "internal") this.breaches.push(`${method} ${path}: ${response.status} ${code}`);
      },
      (error) => {
        // A control API that was killed answers nothing.
        if (this.#program === program) this.breaches.push(`${method} ${path}: ${error}`);
      },
    );
    this.#requests.add(done);
    void done.finally(() => this.#requests.delete(done));
    return done;
  }

  /** Sends a signal to JupyterLab, its kernels, or the standby, where there are any. */
  signal(who: "lab" | "kernel" | "standby", name: NodeJS.Signals): void {
    const lab = this.findListener();
    const tree = this.#tree();
    const kernels = tree.filter((pid) => read(`/proc/${pid}/cmdline`).includes("ipykernel_launcher"));
    const roots = tree.filter((pid) => pid !== lab && read(`/proc/${pid}/cmdline`).includes("zygote.py"));
    for (const pid of { lab: lab ? [lab] : [], kernel: kernels, standby: roots }[who]) process.kill(pid, name);
  }

  /** Freezes all of it for as long as this. */
  async freeze(durationMs: number): Promise<void> {
    const own = this.#program ? [this.#program.child.pid] : [];
    await freeze(() => [...own, ...this.#tree()], durationMs);
  }

  /** Starts a kernel in a running JupyterLab, if there is one that answers. */
  async startKernel(): Promise<void> {
    const server: Json = await this.show();
    if (server?.state !== "running") return;
    await fetch(`${server.url}api/kernels`, {
      method: "POST",
      headers: { authorization: `token ${server.token}` },
      signal: AbortSignal.timeout(3000),
    }).catch(() => {});
  }

  /** Moves the log file away, as a rotation from outside does, or removes it. */
  moveLog(isRemoved: boolean): void {
    const log = join(this.#run, "jupyterlab.log");
    if (isRemoved) rmSync(log, { force: true });
    else if (read(log)) renameSync(log, `${log}.taken`);
  }

  /** Removes all that the control API has beside its connection file, and waits until it has noticed. */
  async removeRun(): Promise<void> {
    for (const name of readdirSync(this.#run)) rmSync(join(this.#run, name), { recursive: true, force: true });
    const isNoticed = async () => {
      const server: Json = await this.show();
      return server?.state !== "running" || existsSync(join(this.#run, "connection.json"));
    };
    if (this.#program) await until("a connection file that is renewed", isNoticed, REST_LIMIT_MS);
  }

  /** A process of the running JupyterLab that forks and ends in a loop, and a stop after which it is gone. */
  async stopForkLoop(kind: string): Promise<void> {
    const server: Json = await this.show();
    const mark = /JUPYTER_RUNTIME_DIR=([^\0]+)/.exec(read(`/proc/${server?.pid ?? 0}/environ`))?.[1];
    if (server?.state !== "running" || !mark) return;
    // Nobody writes this file: what the stop leaves of the loop ends by itself, and says so.
    const stop = join(this.#folder, "stop-forking");
    const loop = Bun.spawn([PYTHON, join(import.meta.dirname, "fork_loop.py"), kind, stop], {
      env: { PATH: process.env.PATH ?? "", JUPYTER_RUNTIME_DIR: mark },
      stdin: "ignore",
      stdout: "pipe",
      stderr: "ignore",
      detached: true,
    });
    const output = new Response(loop.stdout).text();
    await loop.exited;
    await this.ask("DELETE", "/api/servers/");
    if ((await output) !== "ready\n") this.breaches.push("a loop of forks has outlived a stop");
  }

  /** A request of a client that is connected already, while the control API has no descriptor left. */
  async askWithoutDescriptors(method: string, path: string, body = ""): Promise<void> {
    const pid = this.#program?.child.pid;
    if (pid === undefined) return;
    const socket = this.peers.connect();
    let text = "";
    socket.on("data", (chunk) => {
      text += chunk.toString();
    });
    const send = (method: string, path: string, body: string) =>
      socket.write(
        `${method} ${path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
      );
    const answered = () =>
      until("an answer", () => /\r\n\r\n[\s\S]*\}\s*(\r\n0\r\n\r\n)?$/.test(text), REQUEST_LIMIT_MS);
    send("GET", "/health/live", "");
    await answered();
    text = "";
    const limit = (count: number) => Bun.spawnSync(["prlimit", "--pid", String(pid), `--nofile=${count}:`]);
    limit(Math.max(...listDescriptorNumbers(pid)) + 1);
    try {
      send(method, path, body);
      await answered();
      const status = Number(text.split(" ")[1]);
      if (/"code":"internal"/.test(text)) this.breaches.push(`${method} without descriptors: ${text}`);
      if (method === "DELETE" && status === 200 && this.findListener())
        this.breaches.push("a stop without descriptors said 200, and JupyterLab listens");
    } finally {
      limit(MAX_LIMIT);
      socket.destroy();
    }
  }

  async show(): Promise<Json> {
    return (await this.#program?.show().catch(() => undefined))?.body;
  }

  /** The process that listens on JupyterLab's port. */
  findListener(): number | undefined {
    const port = Number(this.#env.JUPYTER_PORT).toString(16).toUpperCase().padStart(4, "0");
    const inode = new RegExp(`:${port} [0-9A-F]+:0000 0A(?: +\\S+){5} +(\\d+)`).exec(read("/proc/net/tcp"))?.[1];
    return this.#tree().find((pid) => listDescriptors(pid).includes(`socket:[${inode}]`));
  }

  /** Waits until all that is promised of a moment of rest is true; a breach is an error that names it. */
  async check(): Promise<void> {
    if (this.breaches.length > 0) throw new Error(this.breaches.join("; "));
    if (this.#digestNotebooks() !== this.#digest) throw new Error("a notebook on disk has changed");
    if (!this.#program) return;
    let breach: string | undefined;
    const isTrue = async () => {
      breach = await this.#findBreach();
      return breach === undefined;
    };
    await until("what was promised", isTrue, REST_LIMIT_MS).catch(() => {
      throw new Error(`${breach}\n${this.#program?.log.slice(-15).join("\n")}`);
    });
  }

  async #findBreach(): Promise<string | undefined> {
    const program = this.#program;
    if (!program) return undefined;
    const shown: Json = await this.show();
    if (!shown?.state) return `GET answers ${JSON.stringify(shown)}`;
    if (shown.state === "starting" || shown.state === "stopping") return `still ${shown.state}`;
    const listener = this.findListener();
    const tree = this.#tree();
    const kernels = tree.filter((pid) => read(`/proc/${pid}/cmdline`).includes("ipykernel_launcher"));
    const folders = new Set(tree.map((pid) => /JUPYTER_RUNTIME_DIR=([^\0]+)/.exec(read(`/proc/${pid}/environ`))?.[1]));
    if (shown.state === "running") {
      if (listener !== shown.pid) return `GET says pid ${shown.pid} runs, ${listener} listens`;
      // Its own and one of a standby that is on its way out.
      if (folders.size > 2) return `${folders.size} runtime folders are in use`;
    } else {
      if (listener) return `GET says ${shown.state}, ${listener} listens`;
      if (kernels.length > 0) return `GET says ${shown.state}, ${kernels.length} kernels run`;
      if (folders.size > 1) return `GET says ${shown.state}, ${folders.size} runtime folders are in use`;
    }
    const zombies = listChildren(program.child.pid).filter((pid) => !readProcess(pid));
    if (zombies.length > 0) return `${zombies.length} zombies`;
    const descriptors = listDescriptors(program.child.pid).length - this.peers.count;
    if (descriptors > MAX_DESCRIPTORS) return `${descriptors} descriptors are open`;
    return undefined;
  }

  #tree(): number[] {
    return findTree(this.#folder);
  }

  #digestNotebooks(): string {
    const hash = createHash("sha256");
    for (const name of readdirSync(this.#notebooks, { recursive: true, encoding: "utf8" }).sort()) {
      hash.update(`${name}\0`).update(read(join(this.#notebooks, name)));
    }
    return hash.digest("hex");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.peers[Symbol.dispose]();
    await this.endControlApi("SIGKILL");
    for (const pid of this.#tree()) process.kill(pid, "SIGKILL");
    await until("nothing left", () => this.#tree().length === 0);
    this.disk[Symbol.dispose]();
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

function listDescriptorNumbers(pid: number): number[] {
  return readdirSync(`/proc/${pid}/fd`).map(Number);
}

function listDescriptors(pid: number): string[] {
  try {
    return readdirSync(`/proc/${pid}/fd`).map((name) => readlinkSync(`/proc/${pid}/fd/${name}`));
  } catch {
    return [];
  }
}

function listChildren(pid: number): number[] {
  try {
    return readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").split(" ").filter(Boolean).map(Number);
  } catch {
    return [];
  }
}
