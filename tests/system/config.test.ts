import { afterAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Config, ConfigError, type Environment, parseConfig, SUPERVISED_VARIABLES } from "../../config.ts";
import { isLoopback } from "../../lib/values.ts";

const CWD = mkdtempSync(join(tmpdir(), "config-"));
afterAll(() => rmSync(CWD, { recursive: true }));

const DEFAULTS: Config = {
  host: "127.0.0.1",
  port: 8080,
  apiToken: undefined,
  jupyterHost: "127.0.0.1",
  jupyterPort: 8888,
  jupyterToken: undefined,
  notebookDir: join(CWD, "notebooks"),
  connectionFile: join(CWD, ".runtime/connection.json"),
  logFile: join(CWD, ".runtime/jupyterlab.log"),
  jupyterConfigFile: join(CWD, "jupyter_notebook_config.py"),
  python: "python3",
  gatewayUrl: undefined,
  gatewayToken: undefined,
  gatewayRequired: false,
  publicUrl: undefined,
  proxy: false,
  startOnVisit: true,
  prefix: "",
  standby: "on",
  startTimeoutMs: 60_000,
  stopTimeoutMs: 8_000,
  autoRestart: true,
  idleTimeoutMs: 0,
  embedOrigins: [],
  allowedHosts: [],
  logLevel: "info",
  logFormat: "text",
  debug: false,
  jupyterEnv: {},
  warnings: [],
};

function problemsOf(env: Environment): string[] {
  try {
    parseConfig(env, CWD);
  } catch (error) {
    if (error instanceof ConfigError) return error.problems;
    throw error;
  }
  return [];
}

function writeToken(text: string): string {
  const file = join(mkdtempSync(join(CWD, "token-")), "token");
  writeFileSync(file, text);
  return file;
}

test("an empty environment gives the defaults, and so do empty variables", () => {
  expect(parseConfig({}, CWD)).toEqual(DEFAULTS);
  expect(parseConfig(Object.fromEntries([...SUPERVISED_VARIABLES].map((name) => [name, ""])), CWD)).toEqual(DEFAULTS);
});

test("the virtual environment of the working directory is the default Python", () => {
  const cwd = join(CWD, "with-venv");
  mkdirSync(join(cwd, ".venv/bin"), { recursive: true });
  writeFileSync(join(cwd, ".venv/bin/python"), "");
  expect(parseConfig({}, cwd).python).toBe(join(cwd, ".venv/bin/python"));
});

const PARSED: [name: string, value: string, key: keyof Config, expected: unknown][] = [
  ["HOST", "0.0.0.0", "host", "0.0.0.0"],
  ["HOST", "::", "host", "::"],
  ["PORT", "80", "port", 80],
  ["API_TOKEN", "abc-123~", "apiToken", "abc-123~"],
  ["JUPYTER_HOST", "localhost", "jupyterHost", "localhost"],
  ["JUPYTER_PORT", "65535", "jupyterPort", 65535],
  ["JUPYTER_TOKEN", "two words", "jupyterToken", "two words"],
  ["NOTEBOOK_DIR", "/data/my notebooks", "notebookDir", "/data/my notebooks"],
  ["NOTEBOOK_DIR", "a/../work", "notebookDir", join(CWD, "work")],
  ["CONNECTION_FILE", "run/c.json", "connectionFile", join(CWD, "run/c.json")],
  ["CONNECTION_FILE", "run/c.json", "logFile", join(CWD, "run/jupyterlab.log")],
  ["LOG_FILE", "./lab.log", "logFile", join(CWD, "lab.log")],
  ["JUPYTER_CONFIG_FILE", "conf.py", "jupyterConfigFile", join(CWD, "conf.py")],
  ["PYTHON", "/opt/python", "python", "/opt/python"],
  ["PYTHON", "bin/python", "python", join(CWD, "bin/python")],
  ["PYTHON", "python3.13", "python", "python3.13"],
  ["JUPYTER_GATEWAY_URL", "https://gateway:8888/base/", "gatewayUrl", "https://gateway:8888/base"],
  ["JUPYTER_GATEWAY_AUTH_TOKEN", "two words", "gatewayToken", "two words"],
  ["GATEWAY_REQUIRED", "1", "gatewayRequired", true],
  ["PUBLIC_URL", "https://lab.example.org/", "publicUrl", "https://lab.example.org"],
  ["PUBLIC_URL", "HTTPS://Lab.Example.org:443/A/", "publicUrl", "https://lab.example.org/A"],
  ["PROXY", "true", "proxy", true],
  ["START_ON_VISIT", "false", "startOnVisit", false],
  ["STANDBY", "off", "standby", "off"],
  ["START_TIMEOUT_S", "1", "startTimeoutMs", 1_000],
  ["STOP_TIMEOUT_S", "3600", "stopTimeoutMs", 3_600_000],
  ["AUTO_RESTART", "0", "autoRestart", false],
  ["IDLE_TIMEOUT_S", "900", "idleTimeoutMs", 900_000],
  ["EMBED_ORIGINS", "https://A.org:443, http://b:3000,", "embedOrigins", ["https://a.org", "http://b:3000"]],
  ["ALLOWED_HOSTS", " Lab.Example.org,other ", "allowedHosts", ["lab.example.org", "other"]],
  ["LOG_LEVEL", "debug", "logLevel", "debug"],
  ["LOG_FORMAT", "json", "logFormat", "json"],
  ["DEBUG", "TRUE", "debug", true],
];
test.each(PARSED)("%s=%s is read as %s", (name, value, key, expected) => {
  expect(parseConfig({ [name]: value }, CWD)[key]).toEqual(expected as Config[typeof key]);
});

test("the table above leaves no part of the configuration out", () => {
  const keys = new Set<string>([...PARSED.map(([, , key]) => key), "prefix", "jupyterEnv", "warnings"]);
  expect([...keys].sort()).toEqual(Object.keys(DEFAULTS).sort());
});

describe("the prefix of every path, with PROXY", () => {
  test.each([
    [{ PUBLIC_URL: "https://hub.org/u/ann/" }, "/u/ann"],
    [{ PUBLIC_URL: "https://hub.org/@me/ws.main/apps/jl" }, "/@me/ws.main/apps/jl"],
    [{ PUBLIC_URL: "https://hub.org", NB_PREFIX: "/notebook/team/ann" }, ""],
    [{ NB_PREFIX: "/notebook/team/ann" }, "/notebook/team/ann"],
    [{ JUPYTERHUB_SERVICE_PREFIX: "/user/ann/" }, "/user/ann"],
    [{ JUPYTERHUB_SERVICE_PREFIX: "/" }, ""],
    [{}, ""],
  ])("of %j is %j", (env: Environment, prefix) => {
    expect(parseConfig({ PROXY: "true", ...env }, CWD).prefix).toBe(prefix);
    expect(parseConfig(env, CWD).prefix).toBe("");
  });

  test.each(["/lab", "/api/x", "/static", "/docs/", "/tree/a", "/files", "/health", "/page"])(
    "can't be %s, which could be a path",
    (path) => {
      expect(problemsOf({ PROXY: "true", PUBLIC_URL: `https://hub.org${path}` })).toEqual([
        `PUBLIC_URL must not have a path that begins like one of JupyterLab or of the control API with PROXY, got ${JSON.stringify(path.replace(/\/$/, ""))}`,
      ]);
      expect(problemsOf({ PUBLIC_URL: `https://hub.org${path}` })).toEqual([]);
    },
  );

  test.each(["/a//b", "/a/%2e/b", "/a(b", "/é"])("can't be %s, which JupyterLab can't serve", (path) => {
    expect(problemsOf({ PROXY: "true", NB_PREFIX: path })).toEqual([
      expect.stringMatching(/^NB_PREFIX must have a path of letters, digits/),
    ]);
  });
});

const PORT_RULE = "a whole number from 1 to 65535";
const REFUSED: [name: string, rule: string, ...values: string[]][] = [
  ["PORT", PORT_RULE, "80.5", "9e3", "0x10", "70000", "-1", "0", " 80", "8080x", "٣"],
  ["JUPYTER_PORT", PORT_RULE, "65536"],
  ["START_TIMEOUT_S", "a whole number from 1 to 3600", "0", "3601"],
  ["STOP_TIMEOUT_S", "a whole number from 1 to 3600", "1e1"],
  ["IDLE_TIMEOUT_S", "a whole number from 0 to 2592000", "-0"],
  ["DEBUG", "true or false", "yes", "constructor", "__proto__"],
  ["STANDBY", "one of on, armed, off", "IDLE"],
  ["LOG_LEVEL", "one of debug, info, warn, error", "trace"],
  ["LOG_FORMAT", "one of text, json", "xml"],
  ["HOST", "a host name or an IP address", "localhost:80", "http://a", "[::1]", "a b"],
  ["ALLOWED_HOSTS", "a comma-separated list of host names", "a.org,b.org:80"],
  ["NOTEBOOK_DIR", "a path without control characters", "a\nb"],
  ["LOG_FILE", "a path without control characters, and not /dev/stdout", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/2"],
  ["PYTHON", "a path without control characters", "py\0"],
  ["JUPYTER_GATEWAY_URL", "an http or https URL", "gateway:8888", "ftp://a", "http://", "http://a b/"],
  ["PUBLIC_URL", "an http or https URL", "//lab.example.org", "http://a:99999"],
  ["EMBED_ORIGINS", "a comma-separated list of origins", "*", "https://*.a.org", "https://a.org *", "https://a.org;b"],
  ["EMBED_ORIGINS", "a comma-separated list of origins", "a.org", "https://a.org/", "https://a.org/b", "null"],
];
test.each(REFUSED.flatMap(([name, rule, ...values]) => values.map((value) => [name, value, rule] as const)))(
  "%s=%j is refused: %s",
  (name, value, rule) => {
    const problems = problemsOf({ [name]: value });
    expect(problems).toEqual([expect.stringContaining(`${name} must be ${rule}`)]);
    expect(problems[0]).toEndWith(`got ${JSON.stringify(value)}`);
  },
);

const JUPYTER_VALUES: [name: string, rule: string, refused: string, accepted: string][] = [
  ["JUPYTER_GATEWAY_HEADERS", "a JSON object of strings", "X-User: bob", '{"X-User": "bob"}'],
  ["JUPYTER_GATEWAY_HEADERS", "a JSON object of strings", '{"X-User": 1}', "{}"],
  ["JUPYTER_GATEWAY_CONNECT_TIMEOUT", "a number of seconds", "4 s", "4.5"],
  ["JUPYTER_GATEWAY_RETRY_MAX", "a whole number from 0", "2.5", "2"],
  ["JUPYTER_GATEWAY_WS_URL", "a ws or wss URL", "http://gateway:8888", "wss://gateway/base"],
  ["KERNEL_LAUNCH_TIMEOUT", "a whole number from 0", "40s", "40"],
];
test.each(JUPYTER_VALUES)(
  "%s must be %s: Jupyter itself fails on %j, and takes %j",
  (name, rule, refused, accepted) => {
    expect(problemsOf({ [name]: refused })).toEqual([expect.stringContaining(`${name} must be ${rule}`)]);
    expect(parseConfig({ [name]: accepted }, CWD).jupyterEnv).toEqual({ [name]: accepted });
    expect(parseConfig({ [name]: "" }, CWD).jupyterEnv).toEqual({});
  },
);

test("headers, which can carry credentials, are not shown", () => {
  expect(problemsOf({ JUPYTER_GATEWAY_HEADERS: "Authorization: s3cret" }).join()).not.toContain("s3cret");
});

test("Kubernetes' variables of a service called jupyter are told from a wrong port", () => {
  expect(problemsOf({ JUPYTER_PORT: "tcp://10.43.73.21:80" })[0]).toEndWith("enableServiceLinks: false");
});

test("all problems are listed at once, one line each", () => {
  const problems = problemsOf({ PORT: "x", STANDBY: "y", DEBUG: "z", LOG_LEVEL: "info", EMBED_ORIGINS: "*" });
  expect(problems.map((line) => line.split(" ")[0])).toEqual(["PORT", "STANDBY", "EMBED_ORIGINS", "DEBUG"]);
  expect(new ConfigError(problems).message.split("\n")).toEqual(problems);
});

test.each([
  ["JUPYTER_PORT", { PORT: "9000", JUPYTER_PORT: "9000" }],
  ["LOG_FILE", { LOG_FILE: "run/x", CONNECTION_FILE: "run/../run/x" }],
])("%s must differ from its neighbour", (name, env) => {
  expect(problemsOf(env)).toEqual([expect.stringContaining(`${name} must differ from`)]);
});

describe("secrets", () => {
  test.each([
    [{ API_TOKEN: "s3cret s3cret" }, "API_TOKEN"],
    [{ API_TOKEN: "s3cret\n" }, "API_TOKEN"],
    [{ API_TOKEN: "s3crét" }, "API_TOKEN"],
    [{ API_TOKEN: "s3cret", API_TOKEN_FILE: writeToken("s3cret") }, "API_TOKEN and API_TOKEN_FILE"],
    [{ API_TOKEN_FILE: writeToken("s3cret s3cret") }, "API_TOKEN_FILE"],
    [{ JUPYTER_GATEWAY_AUTH_TOKEN: "s3cret\n" }, "JUPYTER_GATEWAY_AUTH_TOKEN"],
    [{ JUPYTER_GATEWAY_URL: "http://me:s3cret@gateway" }, "JUPYTER_GATEWAY_URL"],
    [{ JUPYTER_GATEWAY_URL: "http://gateway/?token=s3cret" }, "JUPYTER_GATEWAY_URL"],
    [{ JUPYTER_GATEWAY_URL: "me:s3cret@gateway:8888" }, "JUPYTER_GATEWAY_URL"],
    [{ JUPYTER_GATEWAY_URL: "http://me:a/s3cret@gateway" }, "JUPYTER_GATEWAY_URL"],
    [{ PUBLIC_URL: "https://me:s3cret@lab.example.org" }, "PUBLIC_URL"],
    [{ PUBLIC_URL: "https://lab.example.org/#token=s3cret" }, "PUBLIC_URL"],
    [{ EMBED_ORIGINS: "https://a.org,https://me:s3cret@b.org" }, "EMBED_ORIGINS"],
  ] as [Environment, string][])("a refused one is named and not shown: %j", (env, name) => {
    expect(problemsOf(env)).toEqual([expect.stringMatching(new RegExp(`^${name}\\b(?!.*s3cr)`))]);
  });

  test("the token is read from API_TOKEN_FILE, without the line's end, from the working directory on", () => {
    const file = writeToken("abc123\n");
    expect(parseConfig({ API_TOKEN_FILE: file }, "/").apiToken).toBe("abc123");
    expect(parseConfig({ API_TOKEN_FILE: file.slice(CWD.length + 1) }, CWD).apiToken).toBe("abc123");
  });

  test.each([
    ["that is missing", join(CWD, "missing"), "(ENOENT)"],
    ["that is a folder", CWD, "(EFTYPE)"],
    ["that is empty", writeToken(""), "does not"],
    ["of blanks", writeToken(" \n"), "does not"],
  ])("an API_TOKEN_FILE %s is refused by name", (_, file, reason) => {
    const problems = problemsOf({ API_TOKEN_FILE: file });
    expect(problems).toEqual([expect.stringMatching(/^API_TOKEN_FILE must /)]);
    expect(problems[0]).toContain(JSON.stringify(file));
    expect(problems[0]).toEndWith(reason);
  });

  test("JupyterLab inherits the environment without the control API's variables and any token", () => {
    const own = { API_TOKEN: "s3cret", PORT: "81", JUPYTER_TOKEN: "s3cret", JUPYTER_GATEWAY_AUTH_TOKEN: "s3cret" };
    const kept = { PATH: "/bin", JUPYTER_GATEWAY_VALIDATE_CERT: "false", EMPTY: "" };
    expect(parseConfig({ ...own, ...kept, GONE: undefined }, CWD).jupyterEnv).toEqual(kept);
    expect(parseConfig({ API_TOKEN_FILE: writeToken("s3cret") }, CWD).jupyterEnv).toEqual({});
  });
});

test("only this machine reaches a loopback address", () => {
  expect(["localhost", "127.8.9.1", "::1"].every(isLoopback)).toBe(true);
  expect(["0.0.0.0", "::", "127.example.org", "10.0.0.1"].some(isLoopback)).toBe(false);
});

test("a variable that looks like one of the table is warned of, and others are not", () => {
  const { warnings } = parseConfig({ NOTEBOOKS_DIR: "/a", IDLE_TIMEOUT: "9", api_token: "x", HOSTNAME: "h" }, CWD);
  expect(warnings).toEqual([
    "NOTEBOOKS_DIR is not a variable of this program; did you mean NOTEBOOK_DIR?",
    "IDLE_TIMEOUT is not a variable of this program; did you mean IDLE_TIMEOUT_S?",
    "api_token is not a variable of this program; did you mean API_TOKEN?",
  ]);
  // Names that Jupyter, a shell or a container sets.
  const others = ["HOME", "PATH", "JUPYTER_PATH", "JUPYTER_CONFIG_DIR", "JUPYTER_CONFIG_PATH", "PYTHONPATH", "PORTS"];
  expect(parseConfig(Object.fromEntries(others.map((name) => [name, "x"])), CWD).warnings).toEqual([]);
});
