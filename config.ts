/** The environment, read once and checked: the only file that knows the names of environment variables. */
import { existsSync, readFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { LOG_LEVELS, type LogFormat, type LogLevel } from "./lib/log.ts";

/** Exit code of a program whose configuration is wrong (EX_CONFIG of sysexits.h). */
export const CONFIG_EXIT_CODE = 78;

/** Folder of the program: its Python files and pages are found from here, from source and in a bundle alike. */
export const PROGRAM_DIR = import.meta.dirname;

export type Environment = Record<string, string | undefined>;

/** Everything that can be configured, in the units and types the program uses. Paths are absolute. */
export interface Config {
  host: string;
  port: number;
  apiToken: string | undefined;
  jupyterHost: string;
  jupyterPort: number;
  notebookDir: string;
  connectionFile: string;
  logFile: string;
  jupyterConfigFile: string;
  python: string;
  gatewayUrl: string | undefined;
  gatewayToken: string | undefined;
  gatewayRequired: boolean;
  publicUrl: string | undefined;
  standby: "idle" | "armed" | "off";
  startTimeoutMs: number;
  stopTimeoutMs: number;
  autoRestart: boolean;
  idleTimeoutMs: number;
  embedOrigins: string[];
  allowedHosts: string[];
  logLevel: LogLevel;
  logFormat: LogFormat;
  debug: boolean;
  /** What JupyterLab inherits: the environment without the control API's own variables and without its token. */
  jupyterEnv: Record<string, string>;
}

/** All problems of a configuration, one line each. */
export class ConfigError extends Error {
  override name = "ConfigError";
  readonly problems: string[];
  constructor(problems: string[]) {
    super(problems.join("\n"));
    this.problems = problems;
  }
}

/** Variables of the control API: JupyterLab and its kernels do not inherit them. */
// biome-ignore format: a table of names reads best in rows
const OWN_VARIABLES = [
  "HOST", "PORT", "API_TOKEN", "API_TOKEN_FILE", "JUPYTER_HOST", "JUPYTER_PORT", "NOTEBOOK_DIR", "CONNECTION_FILE",
  "LOG_FILE", "JUPYTER_CONFIG_FILE", "PYTHON", "GATEWAY_REQUIRED", "PUBLIC_URL", "STANDBY", "START_TIMEOUT_S",
  "STOP_TIMEOUT_S", "AUTO_RESTART", "IDLE_TIMEOUT_S", "EMBED_ORIGINS", "ALLOWED_HOSTS", "LOG_LEVEL", "LOG_FORMAT",
  "DEBUG",
];

/** Variables that the supervisor sets, or keeps from JupyterLab, itself: a start's `env` can't name them. */
export const SUPERVISED_VARIABLES: ReadonlySet<string> = new Set([
  ...OWN_VARIABLES,
  "JUPYTER_TOKEN",
  "JUPYTER_TOKEN_FILE",
  "JUPYTER_RUNTIME_DIR",
  "JUPYTER_GATEWAY_URL",
  "JUPYTER_GATEWAY_AUTH_TOKEN",
]);

/** Jupyter's own variables of how a gateway is entered, beside its URL and token. */
export const GATEWAY_VARIABLES = {
  socketUrl: "JUPYTER_GATEWAY_WS_URL",
  headers: "JUPYTER_GATEWAY_HEADERS",
  authHeader: "JUPYTER_GATEWAY_AUTH_HEADER_KEY",
  authScheme: "JUPYTER_GATEWAY_AUTH_SCHEME",
  user: "JUPYTER_GATEWAY_HTTP_USER",
  password: "JUPYTER_GATEWAY_HTTP_PWD",
  caCerts: "JUPYTER_GATEWAY_CA_CERTS",
  clientCert: "JUPYTER_GATEWAY_CLIENT_CERT",
  clientKey: "JUPYTER_GATEWAY_CLIENT_KEY",
  validateCert: "JUPYTER_GATEWAY_VALIDATE_CERT",
  /** Python's own, which Jupyter's connections go by where they have no authority of theirs. */
  systemCerts: "SSL_CERT_FILE",
} as const;

const BOOLEANS = new Map([
  ["true", true],
  ["1", true],
  ["false", false],
  ["0", false],
]);
const MAX_TIMEOUT_S = 3600;
const MAX_IDLE_TIMEOUT_S = 30 * 24 * 3600;

/** A web origin in its one canonical form (`https://example.org:8443`), or undefined where `text` is none. */
export function parseOrigin(text: string): string | undefined {
  const url = parseHttpUrl(text);
  // A URL's host may hold signs that mean something in a Content-Security-Policy: `*`, `;`, `'`.
  if (!/^https?:\/\/[\w.:[\]-]+$/i.test(text)) return undefined;
  return url && url.pathname === "/" && !text.endsWith("/") && !url.search && !url.hash ? url.origin : undefined;
}

/** An absolute http(s) URL without a user name and password in it, or undefined. */
export function parseHttpUrl(text: string): URL | undefined {
  if (!/^https?:\/\/[^\s/?#]/i.test(text) || /[\s\\]/.test(text) || hasControls(text) || !URL.canParse(text))
    return undefined;
  const url = new URL(text);
  return url.username || url.password ? undefined : url;
}

/** What a URL can hold beside its address, also one that is none: a password before the host, a token in the query. */
function hideCredentials(text: string): string {
  return text.replace(/(^\w+:\/\/|^).*@/s, "$1***@").replace(/([?#]).*/s, "$1***");
}

/** Splits a comma-separated value; blanks around the entries do not count. */
function splitList(text: string): string[] {
  return text
    .split(",")
    .map((entry) => entry.trim())
    .filter(Boolean);
}

/**
 * Turns an environment into a configuration. Relative paths start at `cwd`. An empty variable counts as unset.
 * Throws one `ConfigError` with every problem: the variable, its rule and its value, never a secret's value.
 */
export function parseConfig(env: Environment, cwd: string): Config {
  const problems: string[] = [];

  const read = <T>(name: string, fallback: T, rule: string, parse: (text: string) => T | undefined): T => {
    const text = env[name];
    if (text === undefined || text === "") return fallback;
    const value = parse(text);
    if (value !== undefined) return value;
    problems.push(`${name} must be ${rule}, got ${JSON.stringify(hideCredentials(text))}`);
    return fallback;
  };
  const readInteger = (name: string, fallback: number, min: number, max: number) =>
    read(name, fallback, `a whole number from ${min} to ${max}`, (text) => {
      const value = /^\d{1,9}$/.test(text) ? Number(text) : Number.NaN;
      return value >= min && value <= max ? value : undefined;
    });
  const readBoolean = (name: string, fallback: boolean) =>
    read(name, fallback, "true or false", (text) => BOOLEANS.get(text.toLowerCase()));
  const readChoice = <T extends string>(name: string, fallback: T, choices: readonly T[]) =>
    read(name, fallback, `one of ${choices.join(", ")}`, (text) => choices.find((choice) => choice === text));
  const readHost = (name: string, fallback: string) =>
    read(name, fallback, "a host name or an IP address, without a port", (text) => (isHost(text) ? text : undefined));
  const readPath = (name: string, fallback: string) =>
    resolve(
      cwd,
      read(name, fallback, "a path without control characters", (text) => (hasControls(text) ? undefined : text)),
    );
  const readUrl = (name: string) =>
    read<string | undefined>(
      name,
      undefined,
      "an http or https URL without user, password, query and fragment",
      (text) => {
        const url = parseHttpUrl(text);
        return url && !url.search && !url.hash ? text.replace(/\/+$/, "") : undefined;
      },
    );

  const readApiToken = (): string | undefined => {
    const { API_TOKEN: token, API_TOKEN_FILE: file } = env;
    if (token && file) problems.push("API_TOKEN and API_TOKEN_FILE must not both be set");
    if (token && !isToken(token))
      problems.push("API_TOKEN must be visible ASCII characters without blanks (its value is not shown)");
    if (token || !file) return token || undefined;
    try {
      const text = readFileSync(resolve(cwd, file), "utf8").trim();
      if (isToken(text)) return text;
      problems.push(
        `API_TOKEN_FILE must hold one token of visible ASCII characters without blanks, ${JSON.stringify(file)} does not`,
      );
    } catch (error) {
      problems.push(
        `API_TOKEN_FILE must be a file that can be read, got ${JSON.stringify(file)} (${errorCode(error)})`,
      );
    }
    return undefined;
  };

  const venvPython = join(cwd, ".venv", "bin", "python");
  const connectionFile = readPath("CONNECTION_FILE", ".runtime/connection.json");
  const config: Config = {
    host: readHost("HOST", "127.0.0.1"),
    port: readInteger("PORT", 8080, 1, 65535),
    apiToken: readApiToken(),
    jupyterHost: readHost("JUPYTER_HOST", "127.0.0.1"),
    jupyterPort: readInteger("JUPYTER_PORT", 8888, 1, 65535),
    notebookDir: readPath("NOTEBOOK_DIR", "notebooks"),
    connectionFile,
    logFile: readPath("LOG_FILE", join(dirname(connectionFile), "jupyterlab.log")),
    jupyterConfigFile: readPath("JUPYTER_CONFIG_FILE", "jupyter_notebook_config.py"),
    python: read(
      "PYTHON",
      existsSync(venvPython) ? venvPython : "python3",
      "a path without control characters",
      (text) => (hasControls(text) ? undefined : text.includes("/") ? resolve(cwd, text) : text),
    ),
    gatewayUrl: readUrl("JUPYTER_GATEWAY_URL"),
    gatewayToken: env.JUPYTER_GATEWAY_AUTH_TOKEN || undefined,
    gatewayRequired: readBoolean("GATEWAY_REQUIRED", false),
    publicUrl: readUrl("PUBLIC_URL"),
    standby: readChoice("STANDBY", "idle", ["idle", "armed", "off"] as const),
    startTimeoutMs: readInteger("START_TIMEOUT_S", 60, 1, MAX_TIMEOUT_S) * 1000,
    stopTimeoutMs: readInteger("STOP_TIMEOUT_S", 8, 1, MAX_TIMEOUT_S) * 1000,
    autoRestart: readBoolean("AUTO_RESTART", true),
    idleTimeoutMs: readInteger("IDLE_TIMEOUT_S", 0, 0, MAX_IDLE_TIMEOUT_S) * 1000,
    embedOrigins: read<string[]>(
      "EMBED_ORIGINS",
      [],
      "a comma-separated list of origins such as https://example.org, without *",
      (text) => {
        const origins = splitList(text).map(parseOrigin);
        return origins.every((origin) => origin !== undefined) ? origins : undefined;
      },
    ),
    allowedHosts: read<string[]>("ALLOWED_HOSTS", [], "a comma-separated list of host names, without ports", (text) => {
      const hosts = splitList(text).map((host) => host.toLowerCase());
      return hosts.every(isHost) ? hosts : undefined;
    }),
    logLevel: readChoice("LOG_LEVEL", "info", LOG_LEVELS),
    logFormat: readChoice("LOG_FORMAT", "text", ["text", "json"] as const),
    debug: readBoolean("DEBUG", false),
    jupyterEnv: inheritedEnv(env),
  };
  if (config.port === config.jupyterPort) {
    problems.push(`JUPYTER_PORT must differ from PORT, got ${JSON.stringify(String(config.jupyterPort))} for both`);
  }
  if (config.logFile === config.connectionFile) {
    problems.push(`LOG_FILE must differ from CONNECTION_FILE, got ${JSON.stringify(config.logFile)} for both`);
  }
  if (config.gatewayToken && hasControls(config.gatewayToken)) {
    problems.push("JUPYTER_GATEWAY_AUTH_TOKEN must not contain control characters (its value is not shown)");
  }
  if (problems.length > 0) throw new ConfigError(problems);
  return config;
}

/** Whether only this machine can reach an address: the control API is safe there without a token. */
export function isLoopback(host: string): boolean {
  return host === "localhost" || host === "::1" || /^127(\.\d{1,3}){3}$/.test(host);
}

/** Whether a text has characters that would end a line or a C string. */
export function hasControls(text: string): boolean {
  return /[\p{Cc}\p{Cs}]/u.test(text);
}

/** The `code` of a system error (`ENOENT`), else its name. */
export function errorCode(error: unknown): string {
  return error instanceof Error ? ((error as NodeJS.ErrnoException).code ?? error.name) : String(error);
}

function isHost(text: string): boolean {
  return (
    /^[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?$/.test(text) ||
    (text.includes(":") && URL.canParse(`http://[${text}]/`))
  );
}

function isToken(text: string): boolean {
  return /^[\x21-\x7e]+$/.test(text);
}

function inheritedEnv(env: Environment): Record<string, string> {
  const kept = Object.entries(env).filter(
    (entry): entry is [string, string] => entry[1] !== undefined && !SUPERVISED_VARIABLES.has(entry[0]),
  );
  return Object.fromEntries(kept);
}
