/** Jupyter settings by name: which the supervisor owns, and sentences about those that are wrong or without effect. */
import { type Static, Type } from "@sinclair/typebox";
import { isSecretName, MASK } from "../lib/redact.ts";

export const JupyterSetting = Type.Union([Type.String(), Type.Number(), Type.Boolean(), Type.Array(Type.String())], {
  description:
    "A string, a number, true or false, or a list of strings. Any other Jupyter setting by its name, `Class.trait`: `MappingKernelManager.cull_idle_timeout`.",
});
export type SettingValue = Static<typeof JupyterSetting>;

/** `Class.trait`. */
export const SETTING_NAME = /^[A-Z][A-Za-z0-9]*\.[a-z_][A-Za-z0-9_]*$/;

/** Traits that the supervisor sets itself, on any class of the application. */
// biome-ignore format: a table of names reads best in rows
const OWNED_APP_TRAITS = new Set([
  "ip", "port", "port_retries", "port_default_value", "port_retries_default_value", "sock", "sock_mode", "root_dir",
  "notebook_dir", "base_url", "default_url", "token", "config_file", "config_file_name", "allow_root",
  "open_browser", "no_browser_open_file", "gateway_config", "runtime_dir", "config_dir", "generate_config",
  "show_config", "show_config_json",
]);
/** The control API asks a gateway with the credentials and certificates of JupyterLab, and reads them from variables. */
// biome-ignore format: a table of names reads best in rows
const GATEWAY_TRAITS_WITH_VARIABLE = new Set([
  "headers", "auth_header_key", "auth_scheme", "http_user", "http_pwd", "ca_certs", "client_cert", "client_key",
  "validate_cert",
]);
const OWNED_GATEWAY_TRAITS = new Set(["url", "auth_token", ...GATEWAY_TRAITS_WITH_VARIABLE]);

/** Whether the supervisor sets it itself, so that a start can't. */
export function isOwned(key: string): boolean {
  const [className = "", trait = ""] = key.split(".");
  if (className.endsWith("IdentityProvider")) return trait === "token";
  if (trait === "root_dir") return true;
  // A class inherits the settings of its base classes.
  if (/(^GatewayClient|Configurable)$/.test(className) && OWNED_GATEWAY_TRAITS.has(trait)) return true;
  return /(App|Application|Configurable)$/.test(className) && OWNED_APP_TRAITS.has(trait);
}

/** What to use instead of a setting that the supervisor owns, as the end of a sentence; empty if there is nothing. */
export function hintFor(key: string): string {
  const trait = key.split(".")[1] ?? "";
  if (GATEWAY_TRAITS_WITH_VARIABLE.has(trait)) return `; use JUPYTER_GATEWAY_${trait.toUpperCase()} in "env"`;
  // biome-ignore format: a table of names reads best in rows
  const option = {
    base_url: "base-url", default_url: "default-url", root_dir: "notebook-dir", notebook_dir: "notebook-dir", token: "token",
    url: "gateway-url", auth_token: "gateway-auth-token", config_file: "JUPYTER_CONFIG_FILE in the environment",
    ip: "JUPYTER_HOST in the environment", port: "JUPYTER_PORT in the environment",
  }[trait];
  return option ? `; use ${option}` : "";
}

/** Why JupyterLab can't start: a file that does not load, or a setting that has a wrong value. */
export interface Refusal {
  /** Null for a setting that the start has asked for. */
  file: string | null;
  line?: number | null;
  key?: string;
  /** The rule that the setting breaks, or what is wrong with the file. */
  reason: string;
}

/** A refusal as a sentence. `settings` are those that the start has asked for. */
export function describeRefusal({ file, line, key, reason }: Refusal, settings: Record<string, SettingValue>): string {
  if (!key) return `The configuration file ${file} does not load${line ? ` (line ${line})` : ""}: ${reason}`;
  if (file) return `The configuration file ${file} sets ${key}, which ${reason}`;
  return `"${key}" ${reason}, got ${isSecretName(key) ? MASK : JSON.stringify(settings[key])}`;
}

/** A sentence for each setting without effect: `unknown` with similar names, `overridden` with the file that has it. */
export function describeWarnings(
  unknown: Record<string, string[]> = {},
  overridden: Record<string, string> = {},
): string[] {
  return [
    ...Object.entries(unknown).map(([key, similar]) => {
      const question = similar.length > 0 ? `; did you mean ${similar.join(" or ")}?` : "";
      return `"${key}" has no effect: the installed Jupyter has no such setting${question}`;
    }),
    ...Object.entries(overridden).map(
      ([key, file]) => `${key} in ${file} has no effect: the control API sets it itself${hintFor(key)}`,
    ),
  ];
}
