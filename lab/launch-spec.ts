/** What the launcher is told (settings, environment, secrets) and what it reports back. */
import { createHash } from "node:crypto";
import { hostname } from "node:os";
import { join } from "node:path";
import { getuid } from "node:process";
import { type Static, Type } from "@sinclair/typebox";
import { type Config, GATEWAY_PREFIX, GATEWAY_VARIABLES, isUnset } from "../config.ts";
import { listForms } from "../lib/redact.ts";
import type { Child, Process } from "../lib/spawn.ts";
import { parseJson } from "../lib/values.ts";
import { listCopies } from "./folders.ts";
import { toSocketUrl, usesConfiguredGateway } from "./gateway-credentials.ts";
import { findSecrets, type StartOptions } from "./options.ts";
import type { Refusal, SettingValue } from "./settings.ts";

/** The launch specification: one line of JSON on the launcher's standard input. */
interface LaunchSpec {
  /** The configuration file that is read after all of Jupyter's own ones; null: none. */
  config_file: string | null;
  /** Settings that win over every configuration file. */
  settings: [className: string, trait: string, value: SettingValue][];
  /** Names of those that the start has asked for. The supervisor sets the others. */
  requested: string[];
  safe_mode: boolean;
  /** Whether Python kernels are forked from a process that has imported everything. */
  fork_kernels: boolean;
  /** Origins whose pages may show JupyterLab in an iframe, and whether browsers reach it over https; null: none. */
  embed: { origins: string[]; secure: boolean; base_url: string } | null;
  /** The host name of PUBLIC_URL, which JupyterLab answers to on loopback as well; null: none. */
  public_host: string | null;
  /** Folders of compressed copies of static files, which need not exist. */
  asset_copies: string[];
  /** Lets the supervisor's own requests in: see `Lab.request`. */
  supervisor_secret: string;
  /** What must not appear in the log, in every form in which it is written. */
  secrets: string[];
}

/** How a JupyterLab was started: an initialised process, a fork of one with everything imported, or from nothing. */
export type StartKind = "armed" | "standby" | "cold";

/** A process that is, or is about to become, JupyterLab. */
export interface LaunchedProcess {
  kind: StartKind;
  child: Process;
  reports: AsyncIterator<Report>;
  runtimeDir: string;
  token: string;
  /** Lets the supervisor's own requests in: see `Lab.request`. */
  secret: string;
}

/** What JupyterLab says of itself, with Jupyter's names: in its reports, in its own file and in the connection file. */
export const ServerInfo = Type.Object({
  hostname: Type.String(),
  port: Type.Integer({ minimum: 1, maximum: 65535 }),
  secure: Type.Boolean(),
  base_url: Type.String(),
  root_dir: Type.String(),
  password: Type.Boolean(),
  pid: Type.Integer(),
  version: Type.String(),
});
export type ServerInfo = Static<typeof ServerInfo>;

/** One line from the launcher or the zygote: how far it is. */
export interface Report {
  phase: string;
  /** Which of the zygote's forks it is of; undefined: of the process itself. */
  id?: number;
  /** With `forked`. */
  pid?: number;
  /** With `exited`: how a fork ended. */
  code?: number | null;
  signal?: string | null;
  /** With `bound`: what JupyterLab says of itself. */
  server?: ServerInfo;
  /** With `bound`: requested settings that no class has, each with similar names. */
  unknown?: Record<string, string[]>;
  /** With `bound`: settings of configuration files that the supervisor sets to other values, each with its file. */
  overridden?: Record<string, string>;
  /** With `bound`: the folders from which JupyterLab serves static files. */
  asset_folders?: string[];
  /** With `refused`: why JupyterLab can't start. */
  refusal?: Refusal;
  /** With `stale`: why this process can't be used, and whether a new zygote can. */
  reason?: string;
  renew?: boolean;
}

/**
 * Builds the specification of a start. It carries the token, which therefore appears neither in `ps` nor in a kernel's
 * environment. `secret` lets the supervisor's requests in. `secrets` are the program's own, in addition to those of the
 * start. `runtimeDir` is the start's own folder.
 */
export function buildLaunchSpec(
  options: StartOptions,
  token: string,
  secret: string,
  runtimeDir: string,
  secrets: string[],
  config: Config,
): LaunchSpec {
  const settings: LaunchSpec["settings"] = [
    ["ServerApp", "ip", config.jupyterHost],
    ["ServerApp", "port", config.jupyterPort],
    // The next port is not published: nobody could reach JupyterLab there.
    ["ServerApp", "port_retries", 0],
    ["ServerApp", "sock", ""],
    ["ServerApp", "root_dir", options.notebookDir],
    ["ServerApp", "base_url", config.prefix + options.baseUrl],
    ["ServerApp", "default_url", options.defaultUrl],
    ["LabApp", "default_url", options.defaultUrl],
    ["ServerApp", "open_browser", false],
    // Both names, because a configuration file can use either.
    ["IdentityProvider", "token", token],
    ["PasswordIdentityProvider", "token", token],
    ["GatewayClient", "url", options.gatewayUrl ?? ""],
  ];
  // Jupyter derives the websocket URL in lower case, path included, which breaks a path with capital letters.
  if (options.gatewayUrl) settings.push(["GatewayClient", "ws_url", findSocketUrl(options, config)]);
  if (config.proxy) settings.push(...describeProxy(config));
  if (getuid?.() === 0) settings.push(["ServerApp", "allow_root", true]);
  if (options.safeMode) {
    settings.push(["LabApp", "labextensions_path", []], ["LabApp", "extra_labextensions_path", []]);
    settings.push(["LabApp", "app_settings_dir", findSafeModeDir(runtimeDir)]);
  }
  for (const [name, value] of Object.entries(options.settings)) {
    const [className = "", trait = ""] = name.split(".");
    settings.push([className, trait, value]);
  }
  return {
    config_file: options.safeMode ? null : config.jupyterConfigFile,
    settings,
    requested: Object.keys(options.settings),
    safe_mode: options.safeMode,
    fork_kernels: config.standby !== "off" && !options.gatewayUrl,
    embed: describeEmbed(options, config),
    public_host: config.publicUrl ? new URL(config.publicUrl).hostname.replace(/^\[|\]$/g, "") : null,
    asset_copies: listCopies(config),
    supervisor_secret: secret,
    secrets: [...new Set([...secrets, secret, ...findSecrets(options, token)].flatMap(listForms))],
  };
}

/** JupyterLab's settings behind the proxy, which checks the host itself. */
function describeProxy(config: Config): LaunchSpec["settings"] {
  const name = `jupyter-login-${findCookieSuffix(config)}`;
  return [
    ["ServerApp", "allow_remote_access", true],
    ["ServerApp", "trust_xheaders", true],
    ["IdentityProvider", "cookie_name", name],
    ["PasswordIdentityProvider", "cookie_name", name],
  ];
}

/** A suffix of cookie names for this container: browsers send cookies to every port of a host. */
export function findCookieSuffix({ connectionFile }: Config): string {
  return createHash("sha256").update(`${hostname()}\0${connectionFile}`).digest("hex").slice(0, 16);
}

function describeEmbed(options: StartOptions, config: Config): LaunchSpec["embed"] {
  const { embedOrigins: origins, baseUrl, settings } = options;
  if (origins.length === 0) return null;
  // A page on https can't show content from http, so an embedding page on https reaches JupyterLab over https.
  const addresses = config.publicUrl ? [config.publicUrl] : origins;
  const secure = addresses.some((address) => /^https:/i.test(address)) || Boolean(settings["ServerApp.certfile"]);
  return { origins, secure, base_url: config.prefix + baseUrl };
}

/**
 * JupyterLab's environment. `runtimeDir` is different for each start, and every process that JupyterLab starts inherits
 * it, so it marks all of them.
 */
export function buildEnv(options: StartOptions, runtimeDir: string, config: Config): Record<string, string> {
  const env: Record<string, string> = { ...config.jupyterEnv, ...options.env, JUPYTER_RUNTIME_DIR: runtimeDir };
  // The environment's gateway variables include credentials, which another gateway must not get.
  if (!usesConfiguredGateway(options, config)) {
    for (const name of Object.keys(config.jupyterEnv)) if (name.startsWith(GATEWAY_PREFIX)) delete env[name];
    Object.assign(env, options.env);
  }
  for (const [name, value] of Object.entries(env)) if (isUnset(name, value)) delete env[name];
  if (options.gatewayToken) env.JUPYTER_GATEWAY_AUTH_TOKEN = options.gatewayToken;
  // Jupyter takes only the lower-case word for false.
  const validate = env[GATEWAY_VARIABLES.validateCert];
  if (validate) env[GATEWAY_VARIABLES.validateCert] = validate.toLowerCase();
  if (options.safeMode) {
    const empty = findSafeModeDir(runtimeDir);
    Object.assign(env, { JUPYTER_NO_CONFIG: "1", JUPYTER_CONFIG_DIR: empty, IPYTHONDIR: empty, PYTHONNOUSERSITE: "1" });
    for (const name of ["JUPYTER_CONFIG_PATH", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR"])
      delete env[name];
  }
  return env;
}

/** The folder without configuration files that safe mode reads in place of all others. */
export function findSafeModeDir(runtimeDir: string): string {
  return join(runtimeDir, "safe-mode");
}

/** The gateway's websocket URL: its own address, unless Jupyter's variable names another one. */
function findSocketUrl(options: StartOptions, config: Config): string {
  const env = buildEnv(options, "", config);
  return env[GATEWAY_VARIABLES.socketUrl] || toSocketUrl(options.gatewayUrl ?? "");
}

/** What turns one environment into another: null removes a name. */
export function diffEnv(from: Record<string, string>, to: Record<string, string>): Record<string, string | null> {
  const diff: Record<string, string | null> = {};
  for (const name of Object.keys(from)) if (!(name in to)) diff[name] = null;
  for (const [name, value] of Object.entries(to)) if (from[name] !== value) diff[name] = value;
  return diff;
}

/** A longer line is no report. */
const MAX_REPORT_CHARS = 256 * 1024;

/** The reports of a child, in order, until its output ends. */
export async function* readReports(child: Child): AsyncGenerator<Report, void> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const chunk of child.output) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = (lines.pop() ?? "").slice(0, MAX_REPORT_CHARS);
    for (const line of lines) {
      const report = parseJson(line);
      if (typeof report === "object" && report !== null && "phase" in report) yield report as Report;
    }
  }
}
