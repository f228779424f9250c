/** The environment: one table of variables that is parsed, documented and checked. Only this file knows their names. */
import { existsSync, readFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { errorCode } from "./lib/errors.ts";
import { LOG_LEVELS } from "./lib/log.ts";
import {
  editDistance,
  hasControls,
  hideCredentials,
  isHost,
  parseBaseUrl,
  parseOrigin,
  splitList,
} from "./lib/values.ts";

/** Exit code of a program whose configuration is wrong (EX_CONFIG of sysexits.h). */
export const CONFIG_EXIT_CODE = 78;

/** The program's folder: its Python files and pages are found from here, from source and from a bundle. */
export const PROGRAM_DIR = import.meta.dirname;

export type Environment = Record<string, string | undefined>;

/** What a value must be, and its parser, which returns undefined for a value that breaks the rule. */
interface Rule<T> {
  rule: string;
  parse: (text: string, cwd: string) => T | undefined;
}

/** One variable. `default` and `image` are its values, as text, outside and inside the image; `unset` is none. */
export interface Variable<T> extends Rule<T> {
  name: string;
  default: string;
  image: string;
  meaning: string;
}

const UNSET = "unset";
const MAX_TIMEOUT_S = 3600;
const MAX_IDLE_TIMEOUT_S = 30 * 24 * 3600;
const BOOLEANS = new Map([
  ["true", true],
  ["1", true],
  ["false", false],
  ["0", false],
]);

const BOOLEAN: Rule<boolean> = { rule: "true or false", parse: (text) => BOOLEANS.get(text.toLowerCase()) };
const HOST: Rule<string> = {
  rule: "a host name or an IP address, without a port",
  parse: (text) => (isHost(text) ? text : undefined),
};
const PORT = integer(1, 65535);
const PATH: Rule<string> = {
  rule: "a path without control characters",
  parse: (text, cwd) => (hasControls(text) ? undefined : resolve(cwd, text)),
};
const PROGRAM: Rule<string> = {
  rule: PATH.rule,
  parse: (text, cwd) => (text.includes("/") || hasControls(text) ? PATH.parse(text, cwd) : text),
};
const URL_RULE: Rule<string> = {
  rule: "an http or https URL without user, password, query and fragment",
  parse: parseBaseUrl,
};
/** Values of secrets are not shown, so their rules say so. */
const API_TOKEN: Rule<string> = {
  rule: "visible ASCII characters without blanks (its value is not shown)",
  parse: (text) => (/^[\x21-\x7e]+$/.test(text) ? text : undefined),
};
const GATEWAY_TOKEN: Rule<string> = {
  rule: "text without control characters (its value is not shown)",
  parse: (text) => (hasControls(text) ? undefined : text),
};
const SECRETS: Rule<unknown>[] = [API_TOKEN, GATEWAY_TOKEN];

function integer(min: number, max: number): Rule<number> {
  const parse = (text: string) => {
    const value = /^\d{1,9}$/.test(text) ? Number(text) : Number.NaN;
    return value >= min && value <= max ? value : undefined;
  };
  return { rule: `a whole number from ${min} to ${max}`, parse };
}

/** A number of seconds, parsed to milliseconds. */
function seconds(min: number, max: number): Rule<number> {
  const { rule, parse } = integer(min, max);
  return { rule, parse: (text) => mapDefined(parse(text, ""), (value) => value * 1000) };
}

function choice<T extends string>(...choices: T[]): Rule<T> {
  return { rule: `one of ${choices.join(", ")}`, parse: (text) => choices.find((one) => one === text) };
}

/** A comma-separated list whose entries `parse` accepts. */
function list(rule: string, parse: (entry: string) => string | undefined): Rule<string[]> {
  return {
    rule,
    parse: (text) => {
      const entries = splitList(text).map(parse);
      return entries.every((entry) => entry !== undefined) ? entries : undefined;
    },
  };
}

function mapDefined<T, U>(value: T | undefined, map: (value: T) => U): U | undefined {
  return value === undefined ? undefined : map(value);
}

function variable<T>(name: string, value: string, rule: Rule<T>, meaning: string, image = value): Variable<T> {
  return { name, default: value, image, meaning, ...rule };
}

/** A variable without a default. */
function optional<T>(name: string, rule: Rule<T>, meaning: string, image = UNSET): Variable<T | undefined> {
  return { name, default: UNSET, image, meaning, ...rule };
}

// biome-ignore format: a table reads best in rows
/** Every variable, in the order of the README. */
export const VARIABLES = {
  host: variable("HOST", "127.0.0.1", HOST, "Address that the control API listens on.", "0.0.0.0"),
  port: variable("PORT", "8080", PORT, "Port of the control API.", "80"),
  apiToken: optional("API_TOKEN", API_TOKEN, "Bearer token of the control API. Without one the API is open, and a warning says so unless HOST is loopback."),
  apiTokenFile: optional("API_TOKEN_FILE", PATH, "File that contains the token instead."),
  jupyterHost: variable("JUPYTER_HOST", "127.0.0.1", HOST, "Address that JupyterLab listens on.", "0.0.0.0"),
  jupyterPort: variable("JUPYTER_PORT", "8888", PORT, "Port of JupyterLab. A port in use is an error; no other port is tried."),
  notebookDir: variable("NOTEBOOK_DIR", "./notebooks", PATH, "JupyterLab's root directory, made if it is missing.", "/notebooks"),
  connectionFile: variable("CONNECTION_FILE", "./.runtime/connection.json", PATH, "File with the running server's details: written atomically with mode 0600, removed when the server stops.", "/run/jupyter-server/connection.json"),
  logFile: variable("LOG_FILE", "./.runtime/jupyterlab.log", PATH, "JupyterLab's output, rotated at 10 MiB; by default beside CONNECTION_FILE.", "/run/jupyter-server/jupyterlab.log"),
  jupyterConfigFile: variable("JUPYTER_CONFIG_FILE", "./jupyter_notebook_config.py", PATH, "Configuration file of JupyterLab. If it is missing or does not load, the start fails with `config_error`.", "/app/jupyter_notebook_config.py"),
  python: variable("PYTHON", "./.venv/bin/python", PROGRAM, "Python that has JupyterLab; `python3` if the default does not exist.", "/usr/local/bin/python3"),
  gatewayUrl: optional("JUPYTER_GATEWAY_URL", URL_RULE, "Gateway of a start that names none. Jupyter's other JUPYTER_GATEWAY_* variables apply to it too."),
  gatewayToken: optional("JUPYTER_GATEWAY_AUTH_TOKEN", GATEWAY_TOKEN, "Token of that gateway."),
  gatewayRequired: variable("GATEWAY_REQUIRED", "false", BOOLEAN, "`true`: a start fails if its gateway does not answer."),
  publicUrl: optional("PUBLIC_URL", URL_RULE, "What `url` in answers begins with; by default the host of the request and JUPYTER_PORT."),
  standby: variable("STANDBY", "on", choice("on", "armed", "off"), "`on`: keep Python processes with everything imported, from which each JupyterLab and each Python kernel is forked. `armed`: also keep a JupyterLab that is initialised with the options of the last start. `off`: none."),
  startTimeoutMs: variable("START_TIMEOUT_S", "60", seconds(1, MAX_TIMEOUT_S), "Deadline of a start, in seconds."),
  stopTimeoutMs: variable("STOP_TIMEOUT_S", "8", seconds(1, MAX_TIMEOUT_S), "Deadline of a whole stop, in seconds."),
  autoRestart: variable("AUTO_RESTART", "true", BOOLEAN, "Restart a crashed JupyterLab: at once, then after growing pauses, at most 3 times in 10 minutes."),
  idleTimeoutMs: variable("IDLE_TIMEOUT_S", "0", seconds(0, MAX_IDLE_TIMEOUT_S), "Stop JupyterLab after this many seconds without activity; 0: never."),
  embedOrigins: variable("EMBED_ORIGINS", "", list("a comma-separated list of origins such as https://example.org, without *", parseOrigin), "Origins whose pages may show JupyterLab in an iframe."),
  allowedHosts: variable("ALLOWED_HOSTS", "", list("a comma-separated list of host names, without ports", (host) => (isHost(host) ? host.toLowerCase() : undefined)), "Further host names that browsers may use for the control API."),
  logLevel: variable("LOG_LEVEL", "info", choice(...LOG_LEVELS), "Level of the control API's own log, on stderr."),
  logFormat: variable("LOG_FORMAT", "text", choice("text", "json"), "Format of that log.", "json"),
  debug: variable("DEBUG", "false", BOOLEAN, "`true`: answers contain the stacks of unexpected errors."),
};

type Values = { [Key in keyof typeof VARIABLES]: (typeof VARIABLES)[Key] extends Variable<infer T> ? T : never };

/** The whole configuration. Paths are absolute, times are in milliseconds. */
export interface Config extends Omit<Values, "apiTokenFile"> {
  /** What JupyterLab inherits: the environment without the control API's own variables. */
  jupyterEnv: Record<string, string>;
  /** Variables that look like one of the table but are not in it: a sentence for each. */
  warnings: string[];
}

/** Variables that the supervisor sets itself, or keeps from JupyterLab: a start's `env` can't contain them. */
export const SUPERVISED_VARIABLES: ReadonlySet<string> = new Set([
  ...Object.values(VARIABLES).map(({ name }) => name),
  "JUPYTER_TOKEN",
  "JUPYTER_TOKEN_FILE",
  "JUPYTER_RUNTIME_DIR",
]);

/** Jupyter's own variables of a gateway, beside its URL and token. */
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
  /** Python's own variable, which Jupyter's connections use if no authority is given. */
  systemCerts: "SSL_CERT_FILE",
} as const;

/** All problems of a configuration, one line each. */
export class ConfigError extends Error {
  override name = "ConfigError";
  readonly problems: string[];
  constructor(problems: string[]) {
    super(problems.join("\n"));
    this.problems = problems;
  }
}

/**
 * Parses an environment. Relative paths begin at `cwd`. An empty variable counts as unset. Throws one `ConfigError` with
 * every problem: the variable, its rule and its value, but never a secret's value.
 */
export function parseConfig(env: Environment, cwd: string): Config {
  const problems: string[] = [];
  const defaults: Environment = findDefaults(env, cwd);
  const read = <T>({ name, rule, parse }: Variable<T>): T => {
    const given = env[name];
    const value = given ? parse(given, cwd) : undefined;
    if (value !== undefined) return value;
    if (given) problems.push(describeProblem(name, rule, SECRETS.some((one) => one.rule === rule) ? undefined : given));
    return mapDefined(defaults[name], (text) => parse(text, cwd)) as T;
  };
  const values = Object.fromEntries(Object.entries(VARIABLES).map(([key, row]) => [key, read<unknown>(row)])) as Values;
  const { apiTokenFile, ...rest } = values;
  if (apiTokenFile && env.API_TOKEN) problems.push("API_TOKEN and API_TOKEN_FILE must not both be set");
  const config: Config = {
    ...rest,
    apiToken: rest.apiToken ?? mapDefined(apiTokenFile, (file) => readToken(file, problems)),
    jupyterEnv: inheritedEnv(env),
    warnings: findUnknown(env),
  };
  if (config.port === config.jupyterPort) {
    problems.push(`JUPYTER_PORT must differ from PORT, got ${JSON.stringify(String(config.jupyterPort))} for both`);
  }
  if (config.logFile === config.connectionFile) {
    problems.push(`LOG_FILE must differ from CONNECTION_FILE, got ${JSON.stringify(config.logFile)} for both`);
  }
  if (problems.length > 0) throw new ConfigError(problems);
  return config;
}

/** The text of `--help`: every variable with its default and meaning. */
export function describeConfig(): string {
  const rows = Object.values(VARIABLES);
  const width = Math.max(...rows.map(({ name }) => name.length));
  const lines = rows.map((row) => {
    const value = row.default === "" ? UNSET : row.default;
    return `  ${row.name.padEnd(width)}  ${row.meaning}\n  ${"".padEnd(width)}  (${row.rule}; default: ${value})`;
  });
  return `Usage: bun index.ts [--help | --version]\n\nEnvironment variables:\n\n${lines.join("\n")}\n`;
}

/** The defaults as text; those that depend on other variables and on files are resolved. */
function findDefaults(env: Environment, cwd: string): Environment {
  const rows = Object.values(VARIABLES).filter((row) => row.default !== UNSET);
  const { connectionFile, logFile, python } = VARIABLES;
  return {
    ...Object.fromEntries(rows.map((row) => [row.name, row.default])),
    ...(env.CONNECTION_FILE ? { [logFile.name]: join(dirname(env[connectionFile.name] ?? ""), "jupyterlab.log") } : {}),
    ...(existsSync(join(cwd, python.default)) ? {} : { [python.name]: "python3" }),
  };
}

function describeProblem(name: string, rule: string, value: string | undefined): string {
  const got = value === undefined ? "" : `, got ${JSON.stringify(hideCredentials(value))}`;
  return `${name} must be ${rule}${got}`;
}

function readToken(file: string, problems: string[]): string | undefined {
  try {
    const token = API_TOKEN.parse(readFileSync(file, "utf8").trim(), "");
    if (token === undefined)
      problems.push(
        `API_TOKEN_FILE must contain one token of visible ASCII characters; ${JSON.stringify(file)} does not`,
      );
    return token;
  } catch (error) {
    problems.push(`API_TOKEN_FILE must be a readable file, got ${JSON.stringify(file)} (${errorCode(error)})`);
    return undefined;
  }
}

function inheritedEnv(env: Environment): Record<string, string> {
  const kept = Object.entries(env).filter(
    (entry): entry is [string, string] => entry[1] !== undefined && !SUPERVISED_VARIABLES.has(entry[0]),
  );
  return Object.fromEntries(kept);
}

/** Short names are near to everything, so they may differ in letter case only. */
const MIN_SIMILAR_CHARS = 8;
const MAX_SIMILAR_EDITS = 2;

function findUnknown(env: Environment): string[] {
  const known = Object.values(VARIABLES).map(({ name }) => name);
  return Object.keys(env).flatMap((given) => {
    if (SUPERVISED_VARIABLES.has(given)) return [];
    const maxEdits = given.length < MIN_SIMILAR_CHARS ? 0 : MAX_SIMILAR_EDITS;
    const meant = known.find((name) => editDistance(given.toUpperCase(), name) <= maxEdits);
    return meant ? [`${given} is not a variable of this program; did you mean ${meant}?`] : [];
  });
}
