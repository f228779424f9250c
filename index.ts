/** The entry: reads the environment, builds the app and exports its handler. `bun index.ts` and `deno serve -A index.ts` serve it. */
import { createApp } from "./app.ts";
import { CONFIG_EXIT_CODE, type Config, ConfigError, isLoopback, parseConfig } from "./config.ts";
import { claimConnection, releaseConnection } from "./lab/connection.ts";
import { stackOf } from "./lib/errors.ts";

export type { App } from "./app.ts";
export { createApp } from "./app.ts";

/** A start may be asked for by a request that stays open for minutes; a connection that says nothing is closed after this. */
const IDLE_TIMEOUT_S = 30;

/** JupyterLab's output is dropped while more than this waits for whoever reads our standard output. */
const MAX_PENDING_BYTES = 1024 * 1024;

const config = readConfig();
const { app, supervisor, log, output } = createApp(config, { writeLog, writeOutput });

if (import.meta.main) main();

/** The handler that a runtime serves. Deno takes its address from its own command line. */
export default {
  hostname: config.host,
  port: config.port,
  idleTimeout: IDLE_TIMEOUT_S,
  fetch(
    request: Request,
    server?: { timeout?: (request: Request, seconds: number) => void },
  ): Response | Promise<Response> {
    // Every answer has a deadline of its own (START_TIMEOUT_S, STOP_TIMEOUT_S), and they may be longer than a silence.
    if (typeof server?.timeout === "function") server.timeout(request, 0);
    return app.fetch(request);
  },
};

function readConfig(): Config {
  try {
    return parseConfig(process.env, process.cwd());
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    for (const problem of error.problems) process.stderr.write(`${problem}\n`);
    process.exit(CONFIG_EXIT_CODE);
  }
}

function main(): void {
  // A reader that has gone away is no reason to stop JupyterLab.
  process.stdout.on("error", () => {});
  process.stderr.on("error", () => {});
  process.on("uncaughtException", endByFault);
  for (const signal of ["SIGTERM", "SIGINT"] as const) process.on(signal, () => endBySignal(signal));
  const rival = claimConnection(config.connectionFile);
  if (rival) {
    log("error", "control API not started", { reason: rival });
    process.exit(1);
  }
  log("info", "control API started", {
    host: config.host,
    port: config.port,
    jupyter_port: config.jupyterPort,
    pid: process.pid,
  });
  // The first answer has to know of a JupyterLab that runs already.
  supervisor.adopt();
  // After this turn the control API listens: nothing that can wait comes before its first answer.
  setTimeout(() => supervisor.prepare(), 0);
  if (config.apiToken === undefined && !isLoopback(config.host)) {
    log("warn", "control API open", {
      host: config.host,
      reason: "API_TOKEN is not set: whoever reaches this address can start JupyterLab",
    });
  }
}

let ending = false;

/** The first signal stops JupyterLab and ends with 0; the second kills at once, with the shell's code for the signal. */
function endBySignal(signal: "SIGTERM" | "SIGINT"): void {
  if (ending) {
    supervisor.kill();
    releaseConnection(config.connectionFile);
    process.exit(signal === "SIGTERM" ? 143 : 130);
  }
  ending = true;
  log("info", "control API ending", { signal });
  supervisor.shutdown().then(
    () => exit(0),
    (error) => {
      log("error", "unexpected error", { stack: stackOf(error) });
      supervisor.kill();
      exit(1);
    },
  );
}

/** An address that can't be listened on ends the program with one line; anything else must not take JupyterLab's owner away. */
function endByFault(error: Error & { code?: string }): void {
  if (error.code !== "EADDRINUSE" && error.code !== "EACCES") {
    log("error", "unexpected error", { stack: stackOf(error) });
    return;
  }
  const reason = error.code === "EACCES" ? "may not be listened on by this user" : "is taken by another program";
  log("error", "control API not started", {
    reason: `${config.host}:${config.port} ${reason}; set HOST and PORT to another address`,
  });
  releaseConnection(config.connectionFile);
  process.exit(1);
}

/** Ends the program in a turn of its own, so that answers which waited for the stop are on their way. */
function exit(code: number): void {
  output.close();
  releaseConnection(config.connectionFile);
  setTimeout(() => process.exit(code), 20);
}

function writeLog(line: string): void {
  process.stderr.write(line);
}

function writeOutput(line: string): void {
  if (process.stdout.writableLength < MAX_PENDING_BYTES) process.stdout.write(`${line}\n`);
}
