import { afterAll, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseConfig } from "../../config.ts";
import { buildEnv, buildLaunchSpec } from "../../lab/launch-spec.ts";
import { findSecrets, parseOptions } from "../../lab/options.ts";
import { ServiceError } from "../../lib/errors.ts";
import { MASK } from "../../lib/redact.ts";

const FOLDER = realpathSync(mkdtempSync(join(tmpdir(), "options-")));
const ROOT = join(FOLDER, "notebooks");
mkdirSync(join(ROOT, "team/deep"), { recursive: true });
mkdirSync(join(FOLDER, "notebooks-of-others"));
writeFileSync(join(ROOT, "a.ipynb"), "");
symlinkSync(FOLDER, join(ROOT, "way-out"));
symlinkSync("team", join(ROOT, "way-in"));
symlinkSync("nowhere", join(ROOT, "broken"));
afterAll(() => rmSync(FOLDER, { recursive: true }));

const GATEWAY = { JUPYTER_GATEWAY_URL: "http://gateway:8888", JUPYTER_GATEWAY_AUTH_TOKEN: "gateway-secret" };
const CONFIG = parseConfig({}, FOLDER);
const WITH_GATEWAY = parseConfig({ ...GATEWAY, JUPYTER_GATEWAY_HTTP_PWD: "http-secret" }, FOLDER);

function refusalOf(body: unknown): string {
  try {
    parseOptions(body, CONFIG);
  } catch (error) {
    if (error instanceof ServiceError && error.code === "invalid_options") return error.message;
    throw error;
  }
  return "accepted";
}

test("an empty body asks for the configured server", () => {
  const options = parseOptions({}, CONFIG);
  expect(options).toMatchObject({ baseUrl: "/", defaultUrl: "/lab", notebookDir: ROOT, token: undefined });
  expect(options).toMatchObject({ gatewayUrl: undefined, gatewayRequired: false, safeMode: false });
  expect([options.env, options.settings, options.asked]).toEqual([{}, {}, {}]);
});

const FULL = {
  "gateway-url": "https://other:8443/base/",
  "gateway-auth-token": "two words",
  "gateway-required": true,
  "base-url": "/user/me",
  token: "my token",
  "notebook-dir": "team",
  "default-url": "/lab/tree/a.ipynb",
  env: { B: "", A: "line\nline" },
  embed: ["https://b.org", "http://A.org:80", "https://b.org:443"],
  "safe-mode": true,
  "MappingKernelManager.cull_idle_timeout": 600,
  "ServerApp.terminals_enabled": false,
  "ServerApp.local_hostnames": ["localhost", "lab"],
  "PasswordIdentityProvider.hashed_password": "argon2:x",
};

test("every key is understood, and the answer shows no secret", () => {
  const { key: _key, asked, body, ...options } = parseOptions(FULL, WITH_GATEWAY);
  expect(body).toEqual(FULL);
  expect(options).toEqual({
    gatewayUrl: "https://other:8443/base",
    gatewayToken: "two words",
    gatewayRequired: true,
    baseUrl: "/user/me/",
    token: "my token",
    notebookDir: join(ROOT, "team"),
    defaultUrl: "/lab/tree/a.ipynb",
    env: { A: "line\nline", B: "" },
    embedOrigins: ["http://a.org", "https://b.org"],
    safeMode: true,
    settings: {
      "MappingKernelManager.cull_idle_timeout": 600,
      "PasswordIdentityProvider.hashed_password": "argon2:x",
      "ServerApp.local_hostnames": ["localhost", "lab"],
      "ServerApp.terminals_enabled": false,
    },
  });
  const masked = { "gateway-auth-token": MASK, token: MASK, "PasswordIdentityProvider.hashed_password": MASK };
  expect(asked).toEqual({ ...FULL, ...masked, env: { A: MASK, B: MASK } });
  expect(parseOptions({ token: "" }, CONFIG).asked).toEqual({ token: "" });
});

test.each([
  [FULL, Object.fromEntries(Object.entries(FULL).reverse())],
  [{ env: { A: "1", B: "2" } }, { env: { B: "2", A: "1" } }],
  [{ "base-url": "/a" }, { "ServerApp.base_url": "/a/" }],
  [{ "gateway-url": "http://g" }, { "gateway-url": "http://g/" }],
  [{ "gateway-url": "http://g/A" }, { "gateway-url": "HTTP://G:80/A" }],
  [{ embed: ["https://a.org", "https://b.org"] }, { embed: ["https://b.org", "https://a.org:443", "https://a.org"] }],
  [
    {},
    { embed: [], "base-url": "/", "default-url": "/lab", "safe-mode": false, "gateway-url": "", "notebook-dir": "." },
  ],
])("equal options have equal keys: %j, %j", (first, second) => {
  expect(parseOptions(second, CONFIG).key).toBe(parseOptions(first, CONFIG).key);
});

test("different options have different keys", () => {
  const values = [1, "1", true, ["1"]].map((value) => ({ "A.b": value }));
  const flags = [
    { embed: ["https://a.org"] },
    { embed: ["http://a.org"] },
    { "safe-mode": true },
    { "gateway-required": true },
  ];
  const texts = [{ token: "" }, { token: "a" }, { env: { A: "" } }, { env: { B: "" } }, { "notebook-dir": "team" }];
  const bodies = [{}, ...values, ...flags, ...texts];
  expect(new Set(bodies.map((body) => parseOptions(body, CONFIG).key)).size).toBe(bodies.length);
});

// Every value holds one of these marks: an error must name the key and the rule, and must not repeat the value.
const MARKS = /zq9|90909/;
const STRING_RULE = "must be a string without control characters";
const PATH_RULE =
  "must be a path that begins with /, has no empty, . or .. part, and holds letters, digits and ._~@:,=%- only";
const URL_RULE = "must be an http or https URL without user, password, query or fragment";
const SETTING_RULE = "must be a string, a number, true or false, or a list of strings";
// biome-ignore format: a table reads best in rows
const REFUSED: [key: string, rule: string, ...values: unknown[]][] = [
  ["gateway-url", URL_RULE, "zq9", "ftp://zq9", "http://me:zq9@h", "http://h?token=zq9", "http://h#zq9", "http://zq9 h"],
  ["gateway-auth-token", STRING_RULE, "zq9\n", 90909],
  ["gateway-required", "must be true or false", "zq9", 90909],
  ["base-url", PATH_RULE, "zq9", "//zq9", "/zq9//b", "/zq9/../b", "/./zq9", "/%2e%2e/zq9", "/zq9?b", "/zq9 b", "/zq9\\b", "/zq9+b"],
  ["token", `${STRING_RULE} and without leading or trailing blanks`, "zq9\0", "zq9\u0085", "zq9\ud800", "zq9 ", "\u00a0zq9", "zq9\u3000", 90909, ["zq9"]],
  ["notebook-dir", "must be an existing folder inside NOTEBOOK_DIR", "zq9", "zq9\0", 90909],
  ["default-url", "must be a path that begins with one / and", "zq9", "//zq9", "/\\zq9", "/zq9 b", "https://zq9", 90909],
  ["env", "must be an object of strings", "zq9", ["zq9"], { A: 90909 }, { "A-zq9": "" }, { "9zq9": "" }, { A: "zq9\0" }, { A: "zq9\ud800" }],
  ["embed", "must be a list of origins such as https://example.org, without *", "https://zq9", ["*zq9"], ["null", "zq9"], ["https://*.zq9"], ["https://zq9/"], ["https://zq9;"], [90909]],
  ["safe-mode", "must be true or false", "zq9", 90909],
  ["A.b", SETTING_RULE, { zq9: 1 }, [90909], ["zq9", null]],
  ["A.b", "must be without NUL characters", "zq9\0", ["zq9\0"]],
  ["env", "is wrong: JUPYTER_GATEWAY_RETRY_MAX must be a whole number", { JUPYTER_GATEWAY_RETRY_MAX: "x" }],
  ["ServerApp.ip", "is set by the supervisor and can't be an option; use JUPYTER_HOST", "zq9"],
  ["GatewayClient.headers", "is set by the supervisor and can't be an option; use JUPYTER_GATEWAY_HEADERS in \"env\"", "zq9"],
];
test.each(REFUSED.flatMap(([key, rule, ...values]) => values.map((value) => [{ [key]: value }, key, rule] as const)))(
  "%j is refused",
  (body, key, rule) => {
    const refusal = refusalOf(body);
    expect(refusal).toStartWith(`"${key}" ${rule}`);
    expect(refusal).not.toMatch(MARKS);
  },
);

test.each(["*", "https://*", "null", "https://a.org https://b.org", "https://a.org; script-src *"])(
  "%j is no origin",
  (origin) => expect(refusalOf({ embed: [origin] })).toContain('"embed" must be a list of origins'),
);

test("an empty token and other origins' pages do not go together", () => {
  const both = { token: "", embed: ["https://a.org"] };
  expect(refusalOf(both)).toContain('"token" must not be empty where another origin may show JupyterLab');
  const config = parseConfig({ EMBED_ORIGINS: "https://a.org" }, FOLDER);
  expect(() => parseOptions({ token: "" }, config)).toThrow("EMBED_ORIGINS");
  expect(parseOptions({ token: "", embed: [] }, config).embedOrigins).toEqual([]);
  expect(parseOptions({}, config).embedOrigins).toEqual(["https://a.org"]);
});

test.each([[null], [[]], ["{}"], [1]])("the body %j is refused", (body) => {
  expect(refusalOf(body)).toBe("The body must be a JSON object");
});

// biome-ignore format: a table reads best in rows
test.each(["jupyter", "gateway_url", "ServerApp", "serverapp.x", "A.b.c", "--ip", "__proto__", "<zq9>"])("%s is no option", (key) => {
  const refusal = refusalOf(JSON.parse(`{"${key}": "zq9"}`));
  expect(refusal).toStartWith(`${key === "<zq9>" ? "A key with unusual characters" : `"${key}"`} is not an option`);
  expect(refusal).not.toMatch(MARKS);
});

test("all problems are named at once", () => {
  const refusal = refusalOf({ token: 1, "base-url": 2, jupyter: 3 });
  for (const key of ["token", "base-url", "jupyter"]) expect(refusal).toContain(`"${key}"`);
});

// biome-ignore format: a table reads best in rows
test.each([
  "ServerApp.port", "LabApp.port", "NotebookApp.ip", "JupyterApp.config_file", "ServerApp.root_dir", "ServerApp.token",
  "IdentityProvider.token", "PasswordIdentityProvider.token", "GatewayClient.url", "GatewayClient.auth_token",
  "Application.show_config", "SingletonConfigurable.sock", "LoggingConfigurable.runtime_dir", "Configurable.ip",
  "GatewayClient.auth_scheme", "GatewayClient.auth_header_key", "GatewayClient.http_user", "GatewayClient.http_pwd",
  "GatewayClient.ca_certs", "GatewayClient.client_cert", "GatewayClient.client_key", "GatewayClient.validate_cert",
  "SingletonConfigurable.auth_token", "Configurable.auth_scheme",
  "ContentsManager.root_dir", "FileContentsManager.root_dir", "AsyncLargeFileManager.root_dir",
])("%s belongs to the supervisor", (key) => {
  expect(refusalOf({ [key]: "zq9" })).toMatch(new RegExp(`^"${key}" is set by the supervisor(?!.*zq9)`));
});

test.each(["API_TOKEN", "PORT", "JUPYTER_TOKEN", "JUPYTER_RUNTIME_DIR", "JUPYTER_GATEWAY_AUTH_TOKEN"])(
  "env can't set %s",
  (name) => expect(refusalOf({ env: { [name]: "zq9" } })).toMatch(new RegExp(`^"env" .*\\(${name} (?!.*zq9)`)),
);

test.each([
  ["", ROOT],
  ["team/deep/..", join(ROOT, "team")],
  [join(ROOT, "team/deep"), join(ROOT, "team/deep")],
  ["way-in/deep", join(ROOT, "team/deep")],
  ["way-out/notebooks/team", join(ROOT, "team")],
])("notebook-dir %j is inside", (asked, expected) => {
  expect(parseOptions({ "notebook-dir": asked }, CONFIG).notebookDir).toBe(expected);
});

// biome-ignore format: a table reads best in rows
test.each([
  "..", "team/../..", "/", FOLDER, "../notebooks-of-others", "way-out", "way-out/notebooks-of-others", "broken", "a.ipynb",
])("notebook-dir %j is refused", (asked) => {
  expect(refusalOf({ "notebook-dir": asked })).toMatch(/^"notebook-dir" must be an existing folder inside/);
});

test.each([
  ["broken", "it is a link to something that does not exist"],
  ["missing", "it does not exist"],
  ["a.ipynb", "it is not a folder"],
  ["way-out", "it is outside NOTEBOOK_DIR"],
  ["../missing", "it is outside NOTEBOOK_DIR"],
])("notebook-dir %j is refused with its reason", (asked, reason) => {
  expect(refusalOf({ "notebook-dir": asked })).toEndWith(`(${reason})`);
});

test.each(["/api/x", "/docs", "/health/", "/metrics", "/page/a", "/u/ann/x"])(
  "with one port, base-url %s would be taken for another path",
  (path) => {
    const config = parseConfig({ PROXY: "true", PUBLIC_URL: "https://hub.org/u/ann" }, FOLDER);
    expect(() => parseOptions({ "base-url": path }, config)).toThrow(/^"base-url" must not begin like a path of the/);
    expect(parseOptions({ "base-url": path }, CONFIG).baseUrl).toBe(`${path.replace(/\/$/, "")}/`);
    expect(parseOptions({ "base-url": "/jupyter" }, config).baseUrl).toBe("/jupyter/");
  },
);

test("JUPYTER_TOKEN is the token of a start that names none", () => {
  const config = parseConfig({ JUPYTER_TOKEN: "fixed" }, FOLDER);
  expect(parseOptions({}, config)).toMatchObject({ token: "fixed", asked: {} });
  expect(parseOptions({ token: "own" }, config).token).toBe("own");
  expect(parseOptions({ token: "" }, config).token).toBe("");
});

test("the two names of the base URL must not differ", () => {
  expect(refusalOf({ "base-url": "/a", "ServerApp.base_url": "/b" })).toContain("are the same setting");
  expect(parseOptions({ "base-url": "/a", "ServerApp.base_url": "/a/" }, CONFIG).baseUrl).toBe("/a/");
});

test.each([
  [{}, "http://gateway:8888", "gateway-secret"],
  [{ "gateway-url": "http://gateway:8888/" }, "http://gateway:8888", "gateway-secret"],
  [{ "gateway-auth-token": "own" }, "http://gateway:8888", "own"],
  [{ "gateway-auth-token": "" }, "http://gateway:8888", undefined],
  [{ "gateway-url": "http://other:8888" }, "http://other:8888", undefined],
  [{ "gateway-url": "http://gateway:8888/x" }, "http://gateway:8888/x", undefined],
  [{ "gateway-url": "http://other", "gateway-auth-token": "own" }, "http://other", "own"],
  [{ "gateway-url": "" }, undefined, undefined],
])("the configured gateway's token goes to no other gateway: %j", (body, gatewayUrl, gatewayToken) => {
  expect(parseOptions(body, WITH_GATEWAY)).toMatchObject({ gatewayUrl, gatewayToken });
});

test("nor do the configured gateway's other credentials", () => {
  const envFor = (body: object) => buildEnv(parseOptions(body, WITH_GATEWAY), "/run", WITH_GATEWAY);
  expect(envFor({})).toHaveProperty("JUPYTER_GATEWAY_HTTP_PWD", "http-secret");
  expect(envFor({ "gateway-url": "http://other" })).not.toHaveProperty("JUPYTER_GATEWAY_HTTP_PWD");
});

test("an empty variable of the gateway is none for JupyterLab, which would use it", () => {
  const empty = { JUPYTER_GATEWAY_AUTH_SCHEME: "", JUPYTER_GATEWAY_KERNELS_ENDPOINT: "" };
  const config = parseConfig({ ...GATEWAY, ...empty, EMPTY: "" }, FOLDER);
  const options = parseOptions({ env: { JUPYTER_GATEWAY_AUTH_HEADER_KEY: "", JUPYTER_GATEWAY_HEADERS: "" } }, config);
  const names = Object.entries(buildEnv(options, "/run", config)).flatMap(([name, value]) => (value ? [] : [name]));
  expect(names).toEqual(["EMPTY"]);
});

test("the environment's gateway credentials go to the environment's addresses only", () => {
  const more = { JUPYTER_GATEWAY_HTTP_PWD: "http-secret", JUPYTER_GATEWAY_HEADERS: '{"X-Key": "header-secret"}' };
  const config = parseConfig({ ...GATEWAY, ...more, JUPYTER_GATEWAY_WS_URL: "ws://sockets:9000" }, FOLDER);
  const secrets = (body: object) => {
    const options = parseOptions(body, config);
    const text = JSON.stringify([options.gatewayToken, buildEnv(options, "/run", config)]);
    return [...text.matchAll(/[a-z]+-secret/g)].map(([secret]) => secret);
  };
  const all = ["gateway-secret", "http-secret", "header-secret", "gateway-secret"];
  expect(secrets({})).toEqual(all);
  expect(secrets({ "gateway-url": GATEWAY.JUPYTER_GATEWAY_URL })).toEqual(all);
  expect(secrets({ env: { JUPYTER_GATEWAY_WS_URL: "ws://sockets:9000" } })).toEqual(all);
  const foreign = "ws://elsewhere:9000";
  for (const body of [
    { "GatewayClient.ws_url": foreign },
    { "SingletonConfigurable.ws_url": foreign },
    { env: { JUPYTER_GATEWAY_WS_URL: foreign } },
    { "gateway-url": "http://elsewhere:8888" },
    { "gateway-url": "http://elsewhere:8888", "GatewayClient.ws_url": "ws://sockets:9000" },
  ])
    expect(secrets(body)).toEqual([]);
  const own = { env: { JUPYTER_GATEWAY_WS_URL: foreign }, "gateway-auth-token": "own-secret" };
  expect(secrets(own)).toEqual(["own-secret", "own-secret"]);
});

test("every string of a list under a secret's name is masked in the log", () => {
  const options = parseOptions({ "Extension.api_keys": ["first-key", "second-key"] }, CONFIG);
  expect(findSecrets(options, "t")).toEqual(["t", "first-key", "second-key"]);
  const forms = buildLaunchSpec({ ...options, token: `a'b"c` }, `a'b"c`, "", "/run", [], CONFIG).secrets;
  expect(forms).toContain(`a\\'b"c`);
});
