/** The environment: one table of variables that is parsed, documented and checked. Only this file knows their names. */
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { errorCode } from "./lib/errors.ts";
import { readPlainFile } from "./lib/files.ts";
import { LOG_LEVELS } from "./lib/log.ts";
import {
  BOOLEAN,
  choice,
  HEADERS,
  HOST,
  integer,
  LOG_PATH,
  list,
  mapDefined,
  PATH,
  PORT,
  PROGRAM,
  type Rule,
  SECONDS,
  seconds,
  URL_RULE,
} from "./lib/rules.ts";
import { editDistance, hasControls, hideCredentials, isHost, isPlainPath, isToken, parseOrigin } from "./lib/values.ts";

/** Exit code of a program whose configuration is wrong (EX_CONFIG of sysexits.h). */
export const CONFIG_EXIT_CODE = 78;

/** The program's folder: its Python files and pages are found from here, from source and from a bundle. */
export const PROGRAM_DIR = import.meta.dirname;

export type Environment = Record<string, string | undefined>;

/** One variable. `default` and `image` are its values, as text, outside and inside the image; `unset` is none. */
interface Variable<T> extends Rule<T> {
  name: string;
  default: string;
  image: string;
  meaning: string;
}

const UNSET = "unset";
const MAX_TIMEOUT_S = 3600;
const MAX_IDLE_TIMEOUT_S = 30 * 24 * 3600;
const API_TOKEN: Rule<string> = {
  rule: "visible ASCII characters",
  isSecret: true,
  parse: (text) => (/^[\x21-\x7e]+$/.test(text) ? text : undefined),
};
const SECRET_TEXT: Rule<string> = {
  rule: "text without control characters",
  isSecret: true,
  parse: (text) => (hasControls(text) ? undefined : text),
};
const JUPYTER_TOKEN: Rule<string> = {
  rule: "text without control characters and without leading or trailing blanks",
  isSecret: true,
  parse: (text) => (isToken(text) ? text : undefined),
};

function variable<T>(name: string, value: string, rule: Rule<T>, meaning: string, image = value): Variable<T> {
  return { name, default: value, image, meaning, ...rule };
}

/** A variable without a default. */
function optional<T>(name: string, rule: Rule<T>, meaning: string): Variable<T | undefined> {
  return { name, default: UNSET, image: UNSET, meaning, ...rule };
}

// biome-ignore format: a table reads best in rows
/** Every variable, in the order of the README. */
export const VARIABLES = {
  host: variable("HOST", "127.0.0.1", HOST, "address of the control API", "0.0.0.0"),
  port: variable("PORT", "8080", PORT, "port of the control API", "80"),
  apiToken: optional("API_TOKEN", API_TOKEN, "bearer token of the control API; unset: no token is needed, and a warning says so unless HOST is loopback"),
  apiTokenFile: optional("API_TOKEN_FILE", PATH, "file that contains that token; not together with API_TOKEN"),
  jupyterHost: variable("JUPYTER_HOST", "127.0.0.1", HOST, "address of JupyterLab", "0.0.0.0"),
  jupyterPort: variable("JUPYTER_PORT", "8888", PORT, "port of JupyterLab; a busy port is an error, and no other port is tried"),
  jupyterToken: optional("JUPYTER_TOKEN", JUPYTER_TOKEN, "token of a start that names none; unset: a random one for each start"),
  notebookDir: variable("NOTEBOOK_DIR", "./notebooks", PATH, "JupyterLab's root directory, created if it is missing", "/notebooks"),
  connectionFile: variable("CONNECTION_FILE", "./.runtime/connection.json", PATH, "details of the running server, mode 0600, removed when it stops; each control API needs its own", "/run/jupyter-server/connection.json"),
  logFile: variable("LOG_FILE", "./.runtime/jupyterlab.log", LOG_PATH, "JupyterLab's output, 10 MiB and one older file, also written to stdout; by default beside CONNECTION_FILE; each control API needs its own", "/run/jupyter-server/jupyterlab.log"),
  jupyterConfigFile: variable("JUPYTER_CONFIG_FILE", "./jupyter_notebook_config.py", PATH, "JupyterLab's configuration, read after every file that jupyter lab reads by itself; a file that does not load fails the start", "/app/jupyter_notebook_config.py"),
  python: variable("PYTHON", "./.venv/bin/python", PROGRAM, "Python that has JupyterLab; python3 if the default does not exist", "/usr/local/bin/python3"),
  gatewayUrl: optional("JUPYTER_GATEWAY_URL", URL_RULE, "gateway of a start that names none"),
  gatewayToken: optional("JUPYTER_GATEWAY_AUTH_TOKEN", SECRET_TEXT, "token for that gateway, and for no other"),
  gatewayRequired: variable("GATEWAY_REQUIRED", "false", BOOLEAN, "true: a start fails when its gateway does not answer"),
  publicUrl: optional("PUBLIC_URL", URL_RULE, "what url in answers starts with; unset: the host of the request and JUPYTER_PORT, or with PROXY the address of the request. With PROXY its path is a prefix of every path"),
  proxy: variable("PROXY", "false", BOOLEAN, "true: every path that is not the control API's own is JupyterLab's, so that one port is enough"),
  startOnVisit: variable("START_ON_VISIT", "true", BOOLEAN, "with PROXY, start a stopped JupyterLab when somebody opens it or saves in an open tab"),
  standby: variable("STANDBY", "on", choice("on", "armed", "off"), "what is kept warm; on: Python processes from which each JupyterLab and each Python kernel is forked; armed: also a JupyterLab that is initialised with the options of the last start; off: nothing"),
  startTimeoutMs: variable("START_TIMEOUT_S", "60", seconds(1, MAX_TIMEOUT_S), "deadline of a start, in seconds"),
  stopTimeoutMs: variable("STOP_TIMEOUT_S", "8", seconds(1, MAX_TIMEOUT_S), "deadline of a whole stop, in seconds"),
  autoRestart: variable("AUTO_RESTART", "true", BOOLEAN, "restart a crashed JupyterLab: at once, then after growing pauses, at most 3 times in 10 minutes"),
  idleTimeoutMs: variable("IDLE_TIMEOUT_S", "0", seconds(0, MAX_IDLE_TIMEOUT_S), "stop JupyterLab after this many seconds without activity; 0: never"),
  embedOrigins: variable("EMBED_ORIGINS", "", list("a comma-separated list of origins such as https://example.org, without *", parseOrigin), "comma-separated origins whose pages may show JupyterLab in an iframe"),
  allowedHosts: variable("ALLOWED_HOSTS", "", list("a comma-separated list of host names, without ports", (host) => (isHost(host) ? host.toLowerCase() : undefined)), "comma-separated further host names by which the control API may be reached without API_TOKEN"),
  logLevel: variable("LOG_LEVEL", "info", choice(...LOG_LEVELS), "level of the control API's own log on stderr: debug, info, warn or error"),
  logFormat: variable("LOG_FORMAT", "text", choice("text", "json"), "format of that log: text or json, one line for each event", "json"),
  debug: variable("DEBUG", "false", BOOLEAN, "true: answers to unexpected errors include the stack"),
};

type Values = { [Key in keyof typeof VARIABLES]: (typeof VARIABLES)[Key] extends Variable<infer T> ? T : never };

/** The whole configuration. Paths are absolute, times are in milliseconds. */
export interface Config extends Omit<Values, "apiTokenFile"> {
  /** With `proxy`: the path that every public path begins with, without its last slash; empty: none. */
  prefix: string;
  /** What JupyterLab inherits: the environment without the control API's own variables. */
  jupyterEnv: Record<string, string>;
  /** Variables that look like one of the table but are not in it: a sentence for each. */
  warnings: string[];
}

/** Variables that the supervisor sets itself, or keeps from JupyterLab: a start's `env` can't contain them. */
export const SUPERVISED_VARIABLES: ReadonlySet<string> = new Set([
  ...Object.values(VARIABLES).map(({ name }) => name),
  "JUPYTER_TOKEN_FILE",
  "JUPYTER_RUNTIME_DIR",
]);

/** The prefix in the environment of Kubeflow and of JupyterHub, for where PUBLIC_URL is unset. */
const PREFIX_VARIABLES = ["NB_PREFIX", "JUPYTERHUB_SERVICE_PREFIX"];

/** First parts of the control API's own paths. */
const OWN_PARTS = ["api", "docs", "health", "metrics", "page"];
/** First parts of the paths of JupyterLab, of its extensions and of Jupyter Notebook. */
// biome-ignore format: a table of names reads best in rows
const JUPYTER_PARTS = [
  "api", "consoles", "custom", "doc", "edit", "favicon.ico", "files", "kernelspecs", "lab", "login", "logout", "lsp",
  "metrics", "nbconvert", "nbextensions", "notebooks", "robots.txt", "services", "static", "terminals", "tree", "view",
];

/** Whether a path begins like one of the control API's own. */
export function isOwnPart(path: string): boolean {
  return OWN_PARTS.includes(firstPart(path));
}

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

/** How Jupyter's variables of a gateway begin. */
export const GATEWAY_PREFIX = "JUPYTER_GATEWAY_";

/** Variables on whose value Jupyter itself fails, at each request to a gateway or when it is imported. */
const JUPYTER_RULES: Record<string, Rule<unknown>> = {
  [GATEWAY_VARIABLES.headers]: HEADERS,
  [GATEWAY_VARIABLES.socketUrl]: {
    rule: "a ws or wss URL",
    parse: (text) => /^wss?:\/\/[^\s/]/.exec(text) ?? undefined,
  },
  ...Object.fromEntries(
    ["CONNECT_TIMEOUT", "REQUEST_TIMEOUT", "RETRY_INTERVAL", "RETRY_INTERVAL_MAX", "LAUNCH_TIMEOUT_PAD"].map((name) => [
      `JUPYTER_GATEWAY_${name}`,
      SECONDS,
    ]),
  ),
  JUPYTER_GATEWAY_RETRY_MAX: integer(0, 999_999_999),
  KERNEL_LAUNCH_TIMEOUT: integer(0, 999_999_999),
};

/** Whether an empty variable has to be left out, because Jupyter would use the empty text. */
export function isUnset(name: string, value: string | undefined): boolean {
  return !value && (name in JUPYTER_RULES || name.startsWith(GATEWAY_PREFIX));
}

/** What is wrong with Jupyter's own variables in an environment: a sentence for each. */
export function findJupyterProblems(env: Environment): string[] {
  return Object.entries(JUPYTER_RULES).flatMap(([name, rule]) => {
    const text = env[name];
    return !text || rule.parse(text, "") !== undefined ? [] : [describeProblem(name, rule, text)];
  });
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

/**
 * Parses an environment. Relative paths begin at `cwd`. An empty variable counts as unset. Throws one `ConfigError` with
 * every problem: the variable, its rule and its value, but never a secret's value.
 */
export function parseConfig(env: Environment, cwd: string): Config {
  const problems: string[] = [];
  const defaults: Environment = findDefaults(env, cwd);
  const read = <T>(row: Variable<T>): T => {
    const given = env[row.name];
    const value = given ? row.parse(given, cwd) : undefined;
    if (value !== undefined) return value;
    if (given) problems.push(describeProblem(row.name, row, given));
    return mapDefined(defaults[row.name], (text) => row.parse(text, cwd)) as T;
  };
  const values = Object.fromEntries(Object.entries(VARIABLES).map(([key, row]) => [key, read<unknown>(row)])) as Values;
  const { apiTokenFile, ...rest } = values;
  if (apiTokenFile && env.API_TOKEN) problems.push("API_TOKEN and API_TOKEN_FILE must not both be set");
  const config: Config = {
    ...rest,
    apiToken: rest.apiToken ?? mapDefined(apiTokenFile, (file) => readToken(file, problems)),
    prefix: rest.proxy ? findPrefix(env, rest.publicUrl, problems) : "",
    jupyterEnv: inheritedEnv(env),
    warnings: findUnknown(env),
  };
  if (config.port === config.jupyterPort) {
    problems.push(`JUPYTER_PORT must differ from PORT, got ${JSON.stringify(String(config.jupyterPort))} for both`);
  }
  if (config.logFile === config.connectionFile) {
    problems.push(`LOG_FILE must differ from CONNECTION_FILE, got ${JSON.stringify(config.logFile)} for both`);
  }
  problems.push(...findJupyterProblems(config.jupyterEnv));
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

/** The prefix of every path. A request may bring it or have lost it on its way, so it must differ from every other path. */
function findPrefix(env: Environment, publicUrl: string | undefined, problems: string[]): string {
  const name = publicUrl ? "PUBLIC_URL" : PREFIX_VARIABLES.find((name) => env[name]);
  const path = publicUrl ? new URL(publicUrl).pathname : ((name && env[name]) ?? "");
  const prefix = path.replace(/^\/*|\/+$/g, "");
  if (prefix !== "" && !isPlainPath(prefix))
    problems.push(`${name} must have a path of letters, digits and ._~@:,=%- with PROXY, got ${JSON.stringify(path)}`);
  if ([...OWN_PARTS, ...JUPYTER_PARTS].includes(firstPart(`/${prefix}`)))
    problems.push(
      `${name} must not have a path that begins like one of JupyterLab or of the control API with PROXY, got ${JSON.stringify(path)}`,
    );
  return prefix && `/${prefix}`;
}

function firstPart(path: string): string {
  return path.split("/")[1] ?? "";
}

function describeProblem(name: string, { rule, isSecret }: Rule<unknown>, value: string): string {
  if (isSecret) return `${name} must be ${rule} (its value is not shown)`;
  // Kubernetes describes a service to its neighbours by variables such as JUPYTER_PORT=tcp://10.0.0.1:80.
  const hint = /^tcp:\/\//.test(value)
    ? "; Kubernetes sets it for a service of that name unless the pod has enableServiceLinks: false"
    : "";
  return `${name} must be ${rule}, got ${JSON.stringify(hideCredentials(value))}${hint}`;
}

function readToken(file: string, problems: string[]): string | undefined {
  try {
    const token = API_TOKEN.parse(readPlainFile(file).trim(), "");
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
    (entry): entry is [string, string] =>
      entry[1] !== undefined && !SUPERVISED_VARIABLES.has(entry[0]) && !isUnset(...entry),
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
    // Texts are at least as many edits apart as their lengths differ, so most pairs need no comparison.
    const near = known.filter((name) => Math.abs(name.length - given.length) <= maxEdits);
    const meant = near.find((name) => editDistance(given.toUpperCase(), name) <= maxEdits);
    return meant ? [`${given} is not a variable of this program; did you mean ${meant}?`] : [];
  });
}
