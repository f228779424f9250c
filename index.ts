/** The entry: reads the environment, builds the app and exports its handler for `bun index.ts` and `deno serve`. */
import { readFileSync } from "node:fs";
import { createApp } from "./app.ts";
import { CONFIG_EXIT_CODE, type Config, ConfigError, describeConfig, parseConfig } from "./config.ts";
import { IS_DENO } from "./http/exchange.ts";
import { MAX_PROXIED_BODY_BYTES, type Runtime } from "./http/proxy.ts";
import { websocket } from "./http/relay.ts";
import { CONNECTION_IDLE_S } from "./http/request.ts";
import { isStream, STALL_LIMIT_S } from "./http/sse.ts";
import { acquireLock, releaseLock } from "./lab/lock.ts";
import { findId } from "./lab/open-file.ts";
import { stackOf } from "./lib/errors.ts";
import { isLoopback } from "./lib/values.ts";
import manifest from "./package.json" with { type: "json" };

export type { App } from "./app.ts";
export { createApp } from "./app.ts";

/** JupyterLab's output is dropped while more than this waits to be written to standard output. */
const MAX_PENDING_BYTES = 1024 * 1024;

const PARALLEL_PROBLEM =
  "deno serve --parallel runs a control API for each processor, and each would have a JupyterLab of its own; leave the flag out";

/** The file that standard output goes to. */
const STANDARD_OUTPUT_ID = findId("/proc/self/fd/1");

/** Signals that end the program, by number. SIGHUP and SIGQUIT come from a terminal that is closed, or from its user. */
const ENDING_SIGNALS = { SIGHUP: 1, SIGINT: 2, SIGQUIT: 3, SIGTERM: 15 };
type EndingSignal = keyof typeof ENDING_SIGNALS;
/** Signals without a meaning here. By default they would end the program and leave JupyterLab behind. */
const IGNORED_SIGNALS = ["SIGUSR1", "SIGUSR2", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGIO"] as const;
/** A terminal's Ctrl-C comes twice at once: from the terminal, and from `bun run` or `timeout`, which pass it on. */
const ECHO_MS = 500;
/** A shell's exit code for a signal is this plus its number. */
const SIGNAL_EXIT_CODE = 128;

/** Why the control API can't listen on its address, by the system's error. */
const BIND_PROBLEMS: Record<string, string> = {
  EACCES: "is not allowed for this user",
  EADDRINUSE: "is in use by another program",
  EADDRNOTAVAIL: "is not an address of this machine",
};

/** Where the control API listens. */
interface Address {
  hostname: string;
  port: number;
}

if (import.meta.main) answerFlags();

const config = readConfig();
const { app, proxy, supervisor, log, logFile } = createApp(config, { writeLog, writeOutput });

let isListening = false;
if (import.meta.main) main();

/** The handler that a runtime serves. Deno has the address from its own command line, and passes it to `onListen`. */
export default {
  hostname: config.host,
  port: config.port,
  ...(IS_DENO && import.meta.main ? { onListen: begin } : {}),
  idleTimeout: CONNECTION_IDLE_S,
  ...(proxy ? { websocket, maxRequestBodySize: MAX_PROXIED_BODY_BYTES } : {}),
  async fetch(given: Request, server?: Runtime): Promise<Response | undefined> {
    const request = proxy ? proxy.findOwn(given) : given;
    if (!request) return proxy?.handle(given, server);
    if (typeof server?.timeout !== "function") return app.fetch(request);
    // A start and a stop have deadlines of their own, which can be longer. The limit is the connection's, not the request's.
    const isLong = request.method !== "GET";
    if (isLong) server.timeout(given, 0);
    const response = await app.fetch(request);
    if (isStream(response)) server.timeout(given, STALL_LIMIT_S);
    else if (isLong) server.timeout(given, CONNECTION_IDLE_S);
    return response;
  },
};

/** `--help` and `--version` print and end the program. */
function answerFlags(): void {
  const flags = process.argv.slice(2);
  if (flags.includes("--help") || flags.includes("-h")) process.stdout.write(describeConfig());
  else if (flags.includes("--version")) process.stdout.write(`${manifest.version}\n`);
  else return;
  process.exit(0);
}

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
  // A closed pipe of a log reader must not end the program.
  process.stdout.on("error", () => {});
  process.stderr.on("error", () => {});
  process.on("uncaughtException", handleException);
  for (const signal of Object.keys(ENDING_SIGNALS) as EndingSignal[]) process.on(signal, () => endBySignal(signal));
  for (const signal of IGNORED_SIGNALS) process.on(signal, () => {});
  const isParallel = IS_DENO && readFileSync("/proc/self/cmdline", "utf8").split("\0").includes("--parallel");
  const problem = isParallel ? PARALLEL_PROBLEM : acquireLock(config.connectionFile);
  if (problem) {
    log("error", "control API not started", { reason: problem });
    process.exit(1);
  }
  // Bun announces the address of a default export with this, on standard output and in no format of ours.
  console.debug = () => {};
  // The first answer must already know a JupyterLab that runs.
  supervisor.recover();
  // Bun listens after this turn of the event loop; if it can't, `handleException` ends the program.
  if (!IS_DENO) setTimeout(() => begin({ hostname: config.host, port: config.port }), 0);
}

/** What is done once the control API listens. Nothing that takes time may delay its first answer. */
function begin(address: Address): void {
  isListening = true;
  logStarted(address);
  supervisor.prepare();
}

function logStarted({ hostname: host, port }: Address): void {
  log("info", "control API started", {
    host,
    port,
    jupyter_port: config.jupyterPort,
    pid: process.pid,
  });
  for (const warning of config.warnings) log("warn", "unknown variable", { reason: warning });
  if (config.apiToken === undefined && !isLoopback(host)) {
    log("warn", "control API open", {
      host,
      reason: "API_TOKEN is not set: anybody who can reach this address can start JupyterLab",
    });
  }
  if (config.proxy) warnOfProxy();
}

/** JupyterLab's pages have the origin of the control API. */
function warnOfProxy(): void {
  if (config.apiToken === undefined) {
    const reason =
      "API_TOKEN is not set: code in a notebook's output can use the control API, as JupyterLab shares its origin";
    log("warn", "proxy open", { reason });
  }
  if (IS_DENO) {
    const reason =
      "under Deno a browser that takes nothing is disconnected after 64 MiB, JupyterLab's pings are not passed on, and JupyterLab can't use https (ServerApp.certfile)";
    log("warn", "proxy limited", { reason });
  }
}

/** The signal that ends the program, and when it came. */
let ending: { signal: EndingSignal; at: number } | undefined;

/** The first signal stops JupyterLab and ends the program with 0. The second one kills at once, with the shell's exit code. */
function endBySignal(signal: EndingSignal): void {
  const at = performance.now();
  if (ending?.signal === signal && at - ending.at < ECHO_MS) return;
  if (ending) {
    supervisor.kill();
    process.exit(SIGNAL_EXIT_CODE + ENDING_SIGNALS[signal]);
  }
  ending = { signal, at };
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

/** A failed bind ends the program with one line. Any other exception is logged, because JupyterLab needs its owner. */
function handleException(error: Error & { code?: string; syscall?: string }): void {
  // Deno's error doesn't name the system call, but nothing else fails before it listens.
  if (IS_DENO ? isListening : error.syscall !== "listen") {
    log("error", "unexpected error", { stack: stackOf(error) });
    return;
  }
  const [address, settings] = IS_DENO
    ? ["the address of deno serve", "--host and --port"]
    : [`${config.host}:${config.port}`, "HOST and PORT"];
  const problem = BIND_PROBLEMS[error.code ?? ""] ?? `can't be listened on (${error.code ?? error.message})`;
  log("error", "control API not started", { reason: `${address} ${problem}; set ${settings} to another address` });
  releaseLock(config.connectionFile, log);
  process.exit(1);
}

/** Ends the program a little later, so that answers which waited for the stop are sent. */
function exit(code: number): void {
  logFile.close();
  setTimeout(() => process.exit(code), 20);
}

function writeLog(line: string): void {
  process.stderr.write(line);
}

function writeOutput(line: string): void {
  // Standard output can go to LOG_FILE itself: each line would be read, and written, again and again.
  if (logFile.fileId === STANDARD_OUTPUT_ID) return;
  if (process.stdout.writableLength < MAX_PENDING_BYTES) process.stdout.write(`${line}\n`);
}
