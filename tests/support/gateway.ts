/** Real gateways for the tests: a headless Jupyter Server, and a Jupyter Kernel Gateway where it can be had. */
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { makeCertificate } from "./certificate.ts";
import { collectLines, freePort, type Json, PROJECT, PYTHON, untilProgram } from "./helpers.ts";

const KERNEL_GATEWAY = "jupyter_kernel_gateway==3.0.1";
const INSTALL_LIMIT_MS = 60_000;

/** The folder of a Jupyter Kernel Gateway, installed where it is missing; undefined where it can't be. */
export function installKernelGateway(): string | undefined {
  const folder = join(PROJECT, "tests", ".kernel-gateway");
  if (existsSync(join(folder, "kernel_gateway"))) return folder;
  // All that it needs is what JupyterLab needs too.
  const options = ["--quiet", "--retries=0", "--no-deps", `--target=${folder}`];
  const command = [PYTHON, "-m", "pip", "install", ...options, KERNEL_GATEWAY];
  const { exitCode } = Bun.spawnSync(command, { stdout: "ignore", stderr: "ignore", timeout: INSTALL_LIMIT_MS });
  if (exitCode === 0) return folder;
  console.warn(`${KERNEL_GATEWAY} can't be installed here: what is tested with it is skipped`);
  return undefined;
}

/** A kernelspec whose kernels the gateway spawns. Those of its own `python3` are forked, which takes a tenth of the time. */
const SPAWNED = {
  argv: ["python", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
  display_name: "spawned",
  language: "python",
  metadata: { kernel_provisioner: { provisioner_name: "local-provisioner" } },
};

/** A gateway that runs. Its kernels are its own children. */
export class TestGateway implements AsyncDisposable {
  readonly token = "of-the-gateway";
  readonly url: string;
  /** The same gateway over https, with a certificate of its own. A Jupyter Kernel Gateway has none. */
  readonly secureUrl: string;
  readonly certificate: string;
  #child: ReturnType<typeof Bun.spawn> | undefined;
  #folder = mkdtempSync(join(tmpdir(), "jupyter-gateway-"));
  #files = makeCertificate(this.#folder, "IP:127.0.0.1");
  #port: number;
  #securePort: number;
  #base: string;
  #kernelGateway: string | undefined;

  private constructor(port: number, securePort: number, base = "/") {
    this.#port = port;
    this.#securePort = securePort;
    this.#base = base;
    this.url = `http://127.0.0.1:${port}${base}`;
    this.secureUrl = `https://127.0.0.1:${securePort}${base}`;
    this.certificate = this.#files.cert;
  }

  /** Starts one. `base` is its base path, with `/` at its end. */
  static async start(base = "/"): Promise<TestGateway> {
    const gateway = new TestGateway(await freePort(), await freePort(), base);
    gateway.#addSpawned();
    await gateway.#run();
    return gateway;
  }

  /** Starts a Jupyter Kernel Gateway that is installed in `folder`. */
  static async startKernelGateway(folder: string): Promise<TestGateway> {
    const gateway = new TestGateway(await freePort(), await freePort());
    gateway.#kernelGateway = folder;
    await gateway.#run();
    return gateway;
  }

  async #run(): Promise<void> {
    const options = [`--port=${this.#port}`, "--ServerApp.port_retries=0", `--ServerApp.base_url=${this.#base}`];
    const program = join(import.meta.dirname, "gateway_server.py");
    const server = [PYTHON, program, "--no-browser", "--allow-root", "--ip=127.0.0.1", ...options];
    const command = this.#kernelGateway ? [PYTHON, "-m", "kernel_gateway"] : server;
    const { PATH = "" } = process.env;
    const forKernelGateway = {
      PYTHONPATH: this.#kernelGateway,
      KG_IP: "127.0.0.1",
      KG_PORT: String(this.#port),
      KG_AUTH_TOKEN: this.token,
      KG_LIST_KERNELS: "True",
    };
    const log: string[] = [];
    const child = Bun.spawn(command, {
      cwd: this.#folder,
      env: {
        PATH,
        HOME: this.#folder,
        JUPYTER_TOKEN: this.token,
        JUPYTER_RUNTIME_DIR: join(this.#folder, "runtime"),
        // No extensions: they are installed by files of Jupyter's configuration, and a gateway needs none.
        JUPYTER_NO_CONFIG: "1",
        JUPYTER_CONFIG_DIR: join(this.#folder, "config"),
        JUPYTER_PATH: join(this.#folder, "data"),
        SECURE: JSON.stringify({ port: this.#securePort, certfile: this.#files.cert, keyfile: this.#files.key }),
        ...(this.#kernelGateway ? forKernelGateway : {}),
      },
      stdin: "ignore",
      stdout: "ignore",
      stderr: "pipe",
    });
    this.#child = child;
    const reading = collectLines(child.stderr, log);
    const ended = async () => {
      await reading;
      return child.exited;
    };
    await untilProgram("the gateway", { log, ended }, () => this.ask("api/kernelspecs").catch(() => undefined));
  }

  /** What it answers to an authenticated GET. */
  async ask(path: string): Promise<Json> {
    const headers = { authorization: `token ${this.token}` };
    const response = await fetch(`${this.url}${path}`, { headers });
    if (!response.ok) throw new Error(`the gateway answered ${response.status}`);
    return response.json();
  }

  /** Ids of its kernels. */
  async kernels(): Promise<string[]> {
    return ((await this.ask("api/kernels")) as { id: string }[]).map(({ id }) => id);
  }

  /** Ends all of its kernels, and continues it if it was stopped. */
  async reset(): Promise<void> {
    this.signal("SIGCONT");
    const headers = { authorization: `token ${this.token}` };
    for (const id of await this.kernels()) await fetch(`${this.url}api/kernels/${id}`, { method: "DELETE", headers });
  }

  signal(name: NodeJS.Signals): void {
    this.#child?.kill(name);
  }

  /** Ends it, its kernels with it. */
  async end(): Promise<void> {
    this.signal("SIGCONT");
    this.signal("SIGTERM");
    await this.#child?.exited;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.end();
    rmSync(this.#folder, { recursive: true, force: true });
  }

  #addSpawned(): void {
    const folder = join(this.#folder, "data", "kernels", "spawned");
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, "kernel.json"), JSON.stringify(SPAWNED));
  }
}
