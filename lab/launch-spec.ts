/** What the launcher is told, and what it tells back: settings that win over every file, the environment, and reports. */
import { join } from "node:path";
import { getuid } from "node:process";
import { type Config, GATEWAY_VARIABLES } from "../config.ts";
import type { Child } from "../lib/spawn.ts";
import { parseJson } from "./client.ts";
import type { ServerInfo } from "./lab.ts";
import { findSecrets, type SettingValue, type StartOptions } from "./options.ts";

/** The launcher's order, one line of JSON on its standard input. */
export interface Order {
  /** Command line of JupyterLab, without the program. */
  arguments: string[];
  settings: [className: string, trait: string, value: SettingValue][];
  safe_mode: boolean;
  /** Whose pages may show JupyterLab in an iframe, and whether browsers reach it over https; null: nobody's. */
  embed: { origins: string[]; secure: boolean; base_url: string } | null;
  /** What must not stand in the log. */
  secrets: string[];
}

/**
 * Builds the order of a start. The token travels in it, and so stands neither in `ps` nor in a kernel's environment.
 * `secrets` are those of the program, beside the start's own.
 */
export function buildOrder(options: StartOptions, token: string, secrets: string[], config: Config): Order {
  const settings: Order["settings"] = [
    ["ServerApp", "ip", config.jupyterHost],
    ["ServerApp", "port", config.jupyterPort],
    ["ServerApp", "port_retries", 0],
    ["ServerApp", "root_dir", options.notebookDir],
    ["ServerApp", "base_url", options.baseUrl],
    ["ServerApp", "default_url", options.defaultUrl],
    ["LabApp", "default_url", options.defaultUrl],
    ["ServerApp", "open_browser", false],
    // Both names: a configuration file that uses the other one must not win.
    ["IdentityProvider", "token", token],
    ["PasswordIdentityProvider", "token", token],
    ["GatewayClient", "url", options.gatewayUrl ?? ""],
  ];
  // What Jupyter makes of the URL itself is in lower case, its path too.
  if (options.gatewayUrl) settings.push(["GatewayClient", "ws_url", findSocketUrl(options, config)]);
  if (getuid?.() === 0) settings.push(["ServerApp", "allow_root", true]);
  if (options.safeMode) settings.push(["LabApp", "labextensions_path", []], ["LabApp", "extra_labextensions_path", []]);
  for (const [name, value] of Object.entries(options.settings)) {
    const [className = "", trait = ""] = name.split(".");
    settings.push([className, trait, value]);
  }
  return {
    arguments: options.safeMode ? [] : [`--config=${config.jupyterConfigFile}`],
    settings,
    safe_mode: options.safeMode,
    embed: describeEmbed(options, config),
    secrets: [...secrets, ...findSecrets(options, token)],
  };
}

function describeEmbed(options: StartOptions, config: Config): Order["embed"] {
  const { embedOrigins: origins, baseUrl, settings } = options;
  if (origins.length === 0) return null;
  // A page on https shows nothing that comes over http: whoever embeds us there reaches us over https.
  const addresses = config.publicUrl ? [config.publicUrl] : origins;
  const secure = addresses.some((address) => /^https:/i.test(address)) || Boolean(settings["ServerApp.certfile"]);
  return { origins, secure, base_url: baseUrl };
}

/**
 * JupyterLab's environment. `runtimeDir` is its own for each start, which also marks every process that it starts: they
 * inherit it.
 */
export function buildEnv(options: StartOptions, runtimeDir: string, config: Config): Record<string, string> {
  const env: Record<string, string> = { ...config.jupyterEnv, ...options.env, JUPYTER_RUNTIME_DIR: runtimeDir };
  // Its variables belong to the configured gateway, credentials among them: another one must not be shown them.
  if (options.gatewayUrl !== config.gatewayUrl) {
    for (const name of Object.keys(config.jupyterEnv)) if (name.startsWith("JUPYTER_GATEWAY_")) delete env[name];
    Object.assign(env, options.env);
  }
  if (options.gatewayToken) env.JUPYTER_GATEWAY_AUTH_TOKEN = options.gatewayToken;
  // Jupyter reads `False` as a name of true.
  const validate = env[GATEWAY_VARIABLES.validateCert];
  if (validate) env[GATEWAY_VARIABLES.validateCert] = validate.toLowerCase();
  if (options.safeMode) {
    const empty = join(runtimeDir, "safe-mode");
    Object.assign(env, { JUPYTER_NO_CONFIG: "1", JUPYTER_CONFIG_DIR: empty, IPYTHONDIR: empty, PYTHONNOUSERSITE: "1" });
    for (const name of ["JUPYTER_CONFIG_PATH", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR"])
      delete env[name];
  }
  return env;
}

/** Where the gateway's websockets are: at its own address, unless Jupyter's own variable says otherwise. */
function findSocketUrl(options: StartOptions, config: Config): string {
  const env = buildEnv(options, "", config);
  return env[GATEWAY_VARIABLES.socketUrl] || (options.gatewayUrl ?? "").replace(/^http/i, "ws");
}

/** What has to change in an environment to become another one: null takes a name away. */
export function diffEnv(from: Record<string, string>, to: Record<string, string>): Record<string, string | null> {
  const diff: Record<string, string | null> = {};
  for (const name of Object.keys(from)) if (!(name in to)) diff[name] = null;
  for (const [name, value] of Object.entries(to)) if (from[name] !== value) diff[name] = value;
  return diff;
}

/** One line of the launcher's or the standby's: how far it is. */
export interface Report {
  phase: string;
  /** With `bound`: what JupyterLab says of itself. */
  server?: ServerInfo;
  /** With `stale`: why this process can't be used any more. */
  reason?: string;
}

/** The reports of a child, in their order, until it has told its last one or ended. */
export async function* readReports(child: Child): AsyncGenerator<Report, void> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const chunk of child.output) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) {
      const report = parseJson(line);
      if (typeof report === "object" && report !== null && "phase" in report) yield report as Report;
    }
  }
}
