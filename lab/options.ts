/** The options of a start: the schema, which is also their documentation, and their validation. */
import { lstatSync, statSync } from "node:fs";
import { resolve, sep } from "node:path";
import { type Static, Type } from "@sinclair/typebox";
import { Value } from "@sinclair/typebox/value";
import { type Config, findJupyterProblems, isOwnPart, SUPERVISED_VARIABLES } from "../config.ts";
import { errorCode, ServiceError } from "../lib/errors.ts";
import { resolveInside } from "../lib/files.ts";
import { isSecretName, listStrings, MASK } from "../lib/redact.ts";
import { hasControls, isPlainPath, isToken, parseBaseUrl, parseOrigin, quoteKey } from "../lib/values.ts";
import { usesConfiguredGateway } from "./gateway-credentials.ts";
import { hintFor, isOwned, JupyterSetting, SETTING_NAME, type SettingValue } from "./settings.ts";

const BASE_URL_RULE =
  "A path that begins with /, has no empty, . or .. part, and holds letters, digits and ._~@:,=%- only.";

/** The body of `POST /api/servers/`. The first sentence of each description is the rule that an error quotes. */
export const StartBody = Type.Object(
  {
    "gateway-url": Type.Optional(
      Type.String({
        description:
          "An http or https URL without user, password, query or fragment, or an empty string for none. Kernels run on that Jupyter gateway.",
      }),
    ),
    "gateway-auth-token": Type.Optional(
      Type.String({
        description: "A string without control characters. The gateway's token; it never appears on a command line.",
      }),
    ),
    "gateway-required": Type.Optional(
      Type.Boolean({ description: "True or false. Whether the start fails when its gateway does not answer." }),
    ),
    "base-url": Type.Optional(
      Type.String({
        description: `${BASE_URL_RULE} The URL prefix of JupyterLab.`,
      }),
    ),
    "ServerApp.base_url": Type.Optional(
      Type.String({
        description: `${BASE_URL_RULE} The same as base-url, under Jupyter's name for it.`,
      }),
    ),
    token: Type.Optional(
      Type.String({
        description:
          "A string without control characters and without leading or trailing blanks. JupyterLab's token; left out: JUPYTER_TOKEN, or 48 random hexadecimal digits; empty: JupyterLab is open to everybody who reaches it.",
      }),
    ),
    "notebook-dir": Type.Optional(
      Type.String({
        description:
          "An existing folder inside NOTEBOOK_DIR, links resolved. The root directory of this start; a relative path begins at NOTEBOOK_DIR.",
      }),
    ),
    "default-url": Type.Optional(
      Type.String({
        description: "A path that begins with one / and has no blanks or backslashes. What JupyterLab opens first.",
      }),
    ),
    env: Type.Optional(
      Type.Record(Type.String(), Type.String(), {
        description:
          "An object of strings of Unicode without NUL, whose names are letters, digits and _, and none that the supervisor sets itself. Added to the environment of JupyterLab and its local kernels.",
      }),
    ),
    embed: Type.Optional(
      Type.Array(Type.String(), {
        description:
          "A list of origins such as https://example.org, without *. Their pages may show JupyterLab in an iframe; it must have a token then.",
      }),
    ),
    "safe-mode": Type.Optional(
      Type.Boolean({
        description:
          "True or false. Start with these settings only: no configuration files, no third-party extensions.",
      }),
    ),
  },
  {
    additionalProperties: JupyterSetting,
    description: "Every key is optional, and so is the body.",
    examples: [{ "gateway-url": "http://gateway:8888" }],
  },
);
/** A start's body. Every other key is a Jupyter setting, and has a dot. */
export type StartBody = Static<typeof StartBody> & { [setting: `${string}.${string}`]: SettingValue };

/** A start's options, validated and resolved against the configuration. */
export interface StartOptions {
  gatewayUrl: string | undefined;
  gatewayToken: string | undefined;
  gatewayRequired: boolean;
  /** Begins and ends with a slash. */
  baseUrl: string;
  /** Undefined: a random token for each start; empty: none. */
  token: string | undefined;
  /** An absolute path inside NOTEBOOK_DIR. NOTEBOOK_DIR itself is not resolved, because it may not exist yet. */
  notebookDir: string;
  defaultUrl: string;
  env: Record<string, string>;
  /** In canonical form, sorted, without duplicates. */
  embedOrigins: string[];
  safeMode: boolean;
  /** `Class.trait` to value, sorted by name. */
  settings: Record<string, SettingValue>;
  /** Equal for equal options. */
  key: string;
  /** The body with its secrets masked, for answers. */
  asked: Record<string, unknown>;
  /** The body as it came, secrets included, for another control API: its configuration can have other defaults. */
  body: StartBody;
}

const PROPERTIES: Record<string, { description?: string }> = StartBody.properties;

/**
 * Validates a body and resolves it against the configuration. Throws `invalid_options` with every problem: the key and its
 * rule. Values are not repeated, because they can be secrets.
 */
export function parseOptions(input: unknown, config: Config): StartOptions {
  const problems = checkShape(input);
  if (problems.length > 0) throw new ServiceError("invalid_options", problems.join("; "));
  const body = input as StartBody;
  const refuse = (key: string, more = "") => void problems.push(`${quoteKey(key)} must be ${ruleOf(key)}${more}`);

  const baseUrls = [body["base-url"], body["ServerApp.base_url"]]
    .filter((path) => path !== undefined)
    .map(normalizeBaseUrl);
  const baseUrl = baseUrls[0] ?? "/";
  if (baseUrls.includes(undefined)) refuse(body["base-url"] === undefined ? "ServerApp.base_url" : "base-url");
  // With one port its paths would be taken for those of the control API, or for ones with the prefix.
  if (config.proxy && (isOwnPart(baseUrl) || (config.prefix && baseUrl.startsWith(`${config.prefix}/`))))
    problems.push(
      '"base-url" must not begin like a path of the control API or like the prefix of PUBLIC_URL with PROXY',
    );
  if (baseUrls.length === 2 && baseUrls[0] !== baseUrls[1]) {
    problems.push('"base-url" and "ServerApp.base_url" are the same setting and must not differ');
  }

  const askedGateway = body["gateway-url"];
  const gatewayUrl = askedGateway === undefined ? config.gatewayUrl : parseBaseUrl(askedGateway);
  if (askedGateway && !gatewayUrl) refuse("gateway-url");
  const askedGatewayToken = body["gateway-auth-token"];
  if (askedGatewayToken !== undefined && hasControls(askedGatewayToken)) refuse("gateway-auth-token");

  if (body.token !== undefined && !isToken(body.token)) refuse("token");
  const token = body.token ?? config.jupyterToken;
  const defaultUrl = body["default-url"] ?? "/lab";
  if (!/^\/(?![/\\])[^\s\\]*$/.test(defaultUrl) || hasControls(defaultUrl)) refuse("default-url");
  const notebookDir = resolveNotebookDir(body["notebook-dir"], config.notebookDir);
  if (notebookDir.reason) refuse("notebook-dir", ` (${notebookDir.reason})`);

  const env = body.env ?? {};
  for (const [name, value] of Object.entries(env)) {
    if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(name) || value.includes("\0") || !value.isWellFormed()) refuse("env");
    else if (SUPERVISED_VARIABLES.has(name)) refuse("env", ` (${name} is one of those)`);
  }
  problems.push(...findJupyterProblems(env).map((problem) => `"env" is wrong: ${problem}`));
  const embedOrigins = readOrigins(body.embed ?? config.embedOrigins);
  if (!embedOrigins) refuse("embed");
  // Without a token, every page that can send JupyterLab a request could use it.
  if (embedOrigins?.length && body.token === "") {
    problems.push('"token" must not be empty where another origin may show JupyterLab ("embed" or EMBED_ORIGINS)');
  }
  const settings = readSettings(body, problems);
  if (problems.length > 0) throw new ServiceError("invalid_options", problems.join("; "));

  const isConfigured = usesConfiguredGateway({ gatewayUrl, env, settings }, config);
  const gatewayToken = askedGatewayToken ?? (isConfigured ? config.gatewayToken : undefined);
  const resolved = {
    gatewayUrl,
    gatewayToken: gatewayUrl ? gatewayToken || undefined : undefined,
    gatewayRequired: body["gateway-required"] ?? config.gatewayRequired,
    baseUrl,
    token,
    notebookDir: notebookDir.path ?? config.notebookDir,
    defaultUrl,
    env: sortKeys(env),
    embedOrigins: embedOrigins ?? [],
    safeMode: body["safe-mode"] ?? false,
    settings,
  };
  return { ...resolved, key: JSON.stringify(resolved), asked: maskBody(body), body };
}

/** A shorter value may be an everyday word. */
const MIN_SECRET_CHARS = 4;

/** The secrets of a start: its tokens, and every value with a secret's name. */
export function findSecrets(options: StartOptions, token: string): string[] {
  const named = [...Object.entries(options.env), ...Object.entries(options.settings)]
    .filter(([name]) => isSecretName(name))
    .flatMap(([, value]) => listStrings(typeof value === "number" ? String(value) : value))
    .filter((value) => value.length >= MIN_SECRET_CHARS);
  return [token, options.gatewayToken ?? "", ...named].filter(Boolean);
}

function checkShape(input: unknown): string[] {
  if (typeof input !== "object" || input === null || Array.isArray(input)) return ["The body must be a JSON object"];
  const problems = new Map<string, string>();
  for (const error of Value.Errors(StartBody, input)) {
    const key = (error.path.split("/")[1] ?? "").replaceAll("~1", "/").replaceAll("~0", "~");
    if (!problems.has(key))
      problems.set(key, isKnown(key) ? `${quoteKey(key)} must be ${ruleOf(key)}` : unknownKey(key));
  }
  for (const key of Object.keys(input)) if (!isKnown(key)) problems.set(key, unknownKey(key));
  return [...problems.values()];
}

function isKnown(key: string): boolean {
  return Object.hasOwn(PROPERTIES, key) || SETTING_NAME.test(key);
}

function unknownKey(key: string): string {
  return `${quoteKey(key)} is not an option; the options are ${Object.keys(PROPERTIES).join(", ")} and Jupyter settings by name, such as MappingKernelManager.cull_idle_timeout`;
}

function ruleOf(key: string): string {
  const description = (Object.hasOwn(PROPERTIES, key) ? PROPERTIES[key] : JupyterSetting)?.description ?? "";
  const rule = description.split(/\. [A-Z]/)[0] ?? "";
  return rule.charAt(0).toLowerCase() + rule.slice(1);
}

/** `/a/b` becomes `/a/b/`; undefined for a path that JupyterLab can't serve, because it uses the path as a pattern. */
function normalizeBaseUrl(path: string): string | undefined {
  if (path === "/") return "/";
  const inner = path.replace(/^\/|\/$/g, "");
  return path.startsWith("/") && isPlainPath(inner) ? `/${inner}/` : undefined;
}

/** Links are followed before the comparison, and JupyterLab gets the result. `reason`: why the folder can't be used. */
function resolveNotebookDir(asked: string | undefined, root: string): { path?: string; reason?: string } {
  if (asked === undefined) return { path: root };
  const path = resolve(root, asked);
  const outside = { reason: "it is outside NOTEBOOK_DIR" };
  if (asked.includes("\0")) return { reason: "it contains a NUL character" };
  try {
    const real = resolveInside(root, path);
    if (real === undefined) return outside;
    return statSync(real).isDirectory() ? { path: real } : { reason: "it is not a folder" };
  } catch (error) {
    const code = errorCode(error);
    if (code !== "ENOENT") return { reason: code };
    // The answer must not tell whether something exists outside.
    if (path !== root && !path.startsWith(root.endsWith(sep) ? root : root + sep)) return outside;
    const isLink = lstatSync(path, { throwIfNoEntry: false })?.isSymbolicLink();
    return { reason: isLink ? "it is a link to something that does not exist" : "it does not exist" };
  }
}

function readOrigins(texts: string[]): string[] | undefined {
  const origins = texts.map(parseOrigin);
  return origins.every((origin) => origin !== undefined) ? [...new Set(origins)].sort() : undefined;
}

function readSettings(body: StartBody, problems: string[]): Record<string, SettingValue> {
  const settings: Record<string, SettingValue> = {};
  for (const [key, value] of Object.entries(body)) {
    if (Object.hasOwn(PROPERTIES, key)) continue;
    if (isOwned(key)) problems.push(`${quoteKey(key)} is set by the supervisor and can't be an option${hintFor(key)}`);
    else if ([value].flat().some((item) => String(item).includes("\0")))
      problems.push(`${quoteKey(key)} must be without NUL characters`);
    else settings[key] = value as SettingValue;
  }
  return sortKeys(settings);
}

/** The body with tokens, and other values with a secret's name, masked. */
function maskBody(body: StartBody): Record<string, unknown> {
  const maskEntry = ([key, value]: [string, unknown]): [string, unknown] => {
    if (key === "env") return [key, Object.fromEntries(Object.entries(value as object).map(([name]) => [name, MASK]))];
    return [key, isSecretName(key) && value !== "" && typeof value !== "boolean" ? MASK : value];
  };
  return Object.fromEntries(Object.entries(body).map(maskEntry));
}

function sortKeys<T>(record: Record<string, T>): Record<string, T> {
  return Object.fromEntries(Object.entries(record).sort(([a], [b]) => (a < b ? -1 : 1)));
}
