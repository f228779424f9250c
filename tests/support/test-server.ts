/** A control API under test, on free ports and in a folder of its own. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createApp } from "../../app.ts";
import { parseConfig } from "../../config.ts";
import { MAX_PROXIED_BODY_BYTES, type Runtime } from "../../http/proxy.ts";
import { websocket } from "../../http/relay.ts";
import { PAUSES, type Pauses } from "../../lab/pauses.ts";
import {
  collectLines,
  denoCommand,
  endOf,
  findTree,
  isAnswered,
  type Json,
  makeEnv,
  PROJECT,
  until,
  untilProgram,
} from "./helpers.ts";

/** Pauses of a control API under test, where no test waits for something to happen in them. */
const SHORT_PAUSES = { restartsMs: [0, 20, 50], gatewayPollMs: 200, compressAfterMs: 2 ** 31 - 1 };

/** An answer of the control API that was read whole. */
export interface Answer {
  status: number;
  headers: Headers;
  body: Json;
  text: string;
}

/** A control API under test. */
export class TestServer implements AsyncDisposable {
  readonly folder: string;
  readonly env: Record<string, string>;
  readonly url: string;
  readonly output: string[] = [];
  readonly log: string[] = [];
  readonly #pauses: Pauses;
  /** Begins to keep the standby, as the program does once it listens. */
  prepare: () => void = () => {};
  standbyPids: () => number[] = () => [];
  #stop: () => Promise<void>;

  private constructor(folder: string, env: Record<string, string>, pauses: Partial<Pauses>) {
    this.#pauses = { ...PAUSES, ...SHORT_PAUSES, ...pauses };
    this.folder = folder;
    this.env = env;
    this.url = `http://127.0.0.1:${env.PORT}`;
    this.#stop = async () => {};
  }

  /**
   * Starts one: in this process, or with RUNTIME=deno as a program under Deno. Its files are in `folder`, which is removed
   * with it.
   */
  static async start(
    more: Record<string, string> = {},
    folder = mkdtempSync(join(tmpdir(), "jupyter server ü-")),
    pauses: Partial<Pauses> = {},
  ): Promise<TestServer> {
    const env = await makeEnv(folder, more);
    const server = new TestServer(folder, env, pauses);
    server.#stop = process.env.RUNTIME === "deno" ? await server.#startDeno() : server.#startHere();
    return server;
  }

  #startHere(): () => Promise<void> {
    const config = parseConfig(this.env, this.folder);
    const sinks = {
      writeLog: (line: string) => void this.log.push(line),
      writeOutput: (line: string) => void this.output.push(line),
    };
    const { app, proxy, supervisor, standby, logFile } = createApp(config, sinks, this.#pauses);
    supervisor.recover();
    this.prepare = () => supervisor.prepare();
    this.standbyPids = () => standby.pids();
    const listener = Bun.serve({
      port: config.port,
      hostname: config.host,
      idleTimeout: 0,
      maxRequestBodySize: MAX_PROXIED_BODY_BYTES,
      websocket,
      fetch(request, server) {
        const own = proxy ? proxy.findOwn(request) : request;
        return own ? app.fetch(own) : (proxy?.handle(request, server as Runtime) as Promise<Response>);
      },
    });
    return async () => {
      await supervisor.shutdown();
      logFile.close();
      await listener.stop(true);
    };
  }

  async #startDeno(): Promise<() => Promise<void>> {
    const child = Bun.spawn(denoCommand("127.0.0.1", this.env.PORT), {
      cwd: PROJECT,
      // Where npx keeps Deno.
      env: { ...this.env, HOME: process.env.HOME },
      stdout: "ignore",
      stderr: "pipe",
    });
    const reading = collectLines(child.stderr, this.log);
    const ended = () => endOf(child, reading);
    await untilProgram("Deno serves", { log: this.log, ended }, () => isAnswered(`${this.url}/health/live`));
    return async () => {
      const pid = /pid=(\d+)/.exec(this.log.join("\n"))?.[1];
      if (pid) process.kill(Number(pid), "SIGTERM");
      await ended();
    };
  }

  /** Sends a request; a body is sent as JSON. */
  async ask(method: string, path: string, body?: unknown, headers: Record<string, string> = {}): Promise<Answer> {
    const type = body === undefined ? {} : { "content-type": "application/json" };
    const entry = this.env.API_TOKEN ? { authorization: `Bearer ${this.env.API_TOKEN}` } : {};
    const response = await fetch(`${this.url}${path}`, {
      method,
      headers: { ...type, ...entry, ...headers },
      ...(body === undefined ? {} : { body: typeof body === "string" ? body : JSON.stringify(body) }),
    });
    const text = await response.text();
    const isJson = /json/.test(response.headers.get("content-type") ?? "");
    return { status: response.status, headers: response.headers, text, body: isJson ? JSON.parse(text) : undefined };
  }

  start(body: unknown = {}, headers?: Record<string, string>): Promise<Answer> {
    return this.ask("POST", "/api/servers/", body, headers);
  }

  show(): Promise<Answer> {
    return this.ask("GET", "/api/servers/");
  }

  stop(): Promise<Answer> {
    return this.ask("DELETE", "/api/servers/");
  }

  /** The lines that JupyterLab has written up to now. Those of `output` come a little later. */
  async readOutput(): Promise<string[]> {
    // For this answer the log is read to its end.
    await this.ask("GET", "/api/servers/logs?tail=0");
    return this.output;
  }

  /** Waits until this many processes of the standby are ready. */
  async standby(count: number): Promise<void> {
    await until(`a standby of ${count}`, () => this.standbyPids().length === count);
  }

  /** Waits for the JupyterLab that follows one that was killed, and returns what is shown of it. */
  awaitRestart({ pid }: { pid: number }): Promise<Json> {
    return until("a restart", async () => {
      const { status, body } = await this.show();
      return status === 200 && body.pid !== pid ? body : undefined;
    });
  }

  /** Everything alive that was started by this control API's JupyterLab. */
  tree(): number[] {
    return findTree(this.folder);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stop();
    rmSync(this.folder, { recursive: true, force: true });
  }
}
