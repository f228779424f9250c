/** Real gateways for the tests: a headless Jupyter Server, and a Jupyter Kernel Gateway where it can be had. */
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
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

/** A gateway that runs. Its kernels are its own children. */
export class TestGateway implements AsyncDisposable {
  readonly token = "of-the-gateway";
  readonly url: string;
  readonly certificate: string;
  #child: ReturnType<typeof Bun.spawn> | undefined;
  #folder = mkdtempSync(join(tmpdir(), "jupyter-gateway-"));
  #port: number;
  #base: string;
  #kernelGateway: string | undefined;

  private constructor(port: number, base: string, isSecure: boolean) {
    this.#port = port;
    this.#base = base;
    this.url = `${isSecure ? "https" : "http"}://127.0.0.1:${port}${base}`;
    this.certificate = isSecure ? join(this.#folder, "gateway.pem") : "";
  }

  /** Starts one under a base path (`/` at its end), over https with a certificate that nobody knows where it is asked for. */
  static async start(base = "/", isSecure = false): Promise<TestGateway> {
    const gateway = new TestGateway(await freePort(), base, isSecure);
    if (isSecure) gateway.#makeCertificate();
    await gateway.#run();
    return gateway;
  }

  /** Starts a Jupyter Kernel Gateway that is installed in `folder`. */
  static async startKernelGateway(folder: string): Promise<TestGateway> {
    const gateway = new TestGateway(await freePort(), "/", false);
    gateway.#kernelGateway = folder;
    await gateway.#run();
    return gateway;
  }

  async #run(): Promise<void> {
    const options = [`--port=${this.#port}`, "--ServerApp.port_retries=0", `--ServerApp.base_url=${this.#base}`];
    if (this.certificate) options.push(`--certfile=${this.certificate}`, `--keyfile=${this.certificate}`);
    const server = [PYTHON, "-m", "jupyter_server", "--no-browser", "--allow-root", "--ip=127.0.0.1", ...options];
    const command = this.#kernelGateway ? [PYTHON, "-m", "kernel_gateway"] : server;
    const { PATH = "", HOME = "" } = process.env;
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
        HOME,
        JUPYTER_TOKEN: this.token,
        JUPYTER_RUNTIME_DIR: join(this.#folder, "runtime"),
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
    const response = await fetch(`${this.url}${path}`, { headers, tls: { rejectUnauthorized: false } });
    if (!response.ok) throw new Error(`the gateway answered ${response.status}`);
    return response.json();
  }

  /** Ids of its kernels. */
  async kernels(): Promise<string[]> {
    return ((await this.ask("api/kernels")) as { id: string }[]).map(({ id }) => id);
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

  #makeCertificate(): void {
    const file = this.certificate;
    const subject = ["-subj", "/CN=gateway", "-addext", "subjectAltName=IP:127.0.0.1"];
    const made = Bun.spawnSync(
      [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-keyout",
        file,
        "-out",
        `${file}.crt`,
      ].concat(subject),
    );
    if (made.exitCode !== 0) throw new Error(made.stderr.toString());
    Bun.spawnSync(["sh", "-c", 'cat "$0.crt" >> "$0"', file]);
  }
}
