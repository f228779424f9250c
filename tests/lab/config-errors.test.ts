/** Jupyter's configuration files with the real JupyterLab: none that does not work fails in silence. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, rmSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { type Files, run, startApi, warmUp, write } from "../support/config-files.ts";
import { NO_TEMPLATE, PYTHON, read, type TestServer } from "../support/helpers.ts";

const LIMIT_MS = 60_000;

/** Serves the starts of all tests, each with the files that a test has written, which are gone after it. */
let api: TestServer;
const put = (files: Files) => write(api.folder, files);
beforeAll(async () => {
  api = await startApi({ "own.py": "" }, { STANDBY: "on", ...NO_TEMPLATE, JUPYTER_CONFIG_FILE: "HOME/own.py" });
  await warmUp(api);
}, LIMIT_MS);
afterEach(() => {
  const [zygote] = api.standbyPids();
  expect(api.tree()).toEqual(zygote ? [zygote] : []);
  rmSync(join(api.folder, ".jupyter"), { recursive: true, force: true });
  put({ "own.py": "" });
});
afterAll(() => api[Symbol.asyncDispose]());

// Python 3.13 names the comma, the versions before it what comes after it.
const [COMMA_IS_NAMED] = run(PYTHON, "-c", "import sys; print(sys.version_info >= (3, 13))");
const COMMA_LINE = COMMA_IS_NAMED === "True" ? /\(line 2\): / : /\(line 3\): /;

// biome-ignore format: a table reads best in rows
const BROKEN: [what: string, file: string, content: string | Uint8Array, reason: RegExp][] = [
  ["a server file that raises", ".jupyter/jupyter_server_config.py", "\nraise ValueError(1)\n", /\(line 2\): ValueError: 1/],
  ["a lab file that raises", ".jupyter/jupyter_lab_config.py", "raise ValueError('x')\n", /\(line 1\): ValueError: x/],
  ["a lab file with a syntax error", ".jupyter/jupyter_lab_config.py", "x = 1\nx = = 1\n", /\(line 2\): SyntaxError: /],
  ["a trailing comma", ".jupyter/jupyter_lab_config.json", '{\n"LabApp": {},\n}\n', COMMA_LINE],
  ["an empty file", ".jupyter/jupyter_config.json", "", /it is empty/],
  ["a byte order mark", ".jupyter/jupyter_config.json", "\ufeff{}", /byte order mark/],
  ["JSON that is no object", ".jupyter/jupyter_server_config.json", "[1]", /must hold one JSON object/],
  ["a section that is no object", ".jupyter/jupyter_server_config.json", '{"ServerApp": 5}', /ServerApp must be an object/],
  ["JSON that is not UTF-8", ".jupyter/jupyter_server_config.json", Uint8Array.of(0x7b, 0x0a, 0x22, 0xe9, 0x22), /\(line 2\): UnicodeDecodeError/],
  ["Python that is not UTF-8", ".jupyter/jupyter_server_config.py", Uint8Array.of(0x78, 0x3d, 0x22, 0xe9, 0x22, 0x0a), /SyntaxError: .*utf-8/],
  ["an exit", ".jupyter/jupyter_server_config.py", "import sys\nsys.exit(3)\n", /\(line 2\): .*sys\.exit\(3\)/],
  ["a list of extensions", ".jupyter/jupyter_server_config.d/x.json", '{"ServerApp": {},}', /\(line 1\): /],
  ["a default of the pages", ".jupyter/labconfig/page_config.json", "{,}", /\(line 1\): /],
  ["a file of another extension", ".jupyter/jupyter_jupyter_server_terminals_config.py", "1/0\n", /\(line 1\): ZeroDivisionError/],
];
describe("a configuration file that does not load", () => {
  test.each(BROKEN)("%s fails the start, and the answer names the file", async (_, file, content, reason) => {
    put({ [file]: content });
    const { status, body } = await api.start();
    expect([status, body.code, body.exit_code]).toEqual([500, "config_error", 1]);
    expect(body.detail).toContain(`The configuration file ${join(api.folder, file)} does not load`);
    expect(body.detail).toMatch(reason);
    expect(body.detail).not.toContain("if a configuration file");
  });

  test("is named also where it is a folder, or a link to nothing", async () => {
    const path = join(api.folder, ".jupyter", "jupyter_server_config.json");
    mkdirSync(path, { recursive: true });
    expect((await api.start()).body.detail).toContain(`${path} does not load: it is a folder`);
    rmSync(path, { recursive: true });
    symlinkSync("nowhere.json", path);
    expect((await api.start()).body.detail).toContain(`${path} does not load: it is a link to nowhere.json`);
  });
});

// biome-ignore format: a table reads best in rows
const REFUSED: [body: object, message: string][] = [
  [{ "MappingKernelManager.cull_idle_timeout": "abc" }, '"MappingKernelManager.cull_idle_timeout" must be an int, got "abc"'],
  [{ "LabApp.dev_mode": "perhaps" }, '"LabApp.dev_mode" must be a boolean, got "perhaps"'],
  [{ "ServerApp.preferred_dir": "/nowhere" }, '"ServerApp.preferred_dir" is refused: No such preferred dir'],
  [{ "PasswordIdentityProvider.hashed_password": 12345 }, '"PasswordIdentityProvider.hashed_password" must be a unicode string, got ***'],
  [{ "ServerApp.contents_manager_class": "no.Such" }, "\"ServerApp.contents_manager_class\" must be a type, but 'no.Such' could not be imported"],
];
// biome-ignore format: a table reads best in rows
const WRONG: [line: string, message: RegExp][] = [
  ["c.ServerApp.max_body_size = 'much'", /sets ServerApp.max_body_size, which must be an int/],
  ["c.LabApp.dev_mode = 'perhaps'", /sets LabApp.dev_mode, which must be a boolean/],
  ["c.ServerApp.certfile = '/missing.pem'", /sets ServerApp.certfile, which must be a readable file; \/missing.pem is not \(ENOENT\)/],
  ["c.ServerApp.certfile = __file__", /sets ServerApp.certfile, which must be a PEM certificate/],
  ["c.ServerApp.keyfile = __file__", /sets ServerApp.keyfile, which must not be set without a certfile/],
  ["c.PasswordIdentityProvider.password_required = True", /password_required needs a hashed_password/],
  ["c.ServerApp.allow_origin_pat = '('", /missing \)/],
];
describe("a setting that can't work", () => {
  test.each(REFUSED)("is refused where a start asks for it: %j", async (body, message) => {
    const answer = await api.start(body);
    expect([answer.status, answer.body.code]).toEqual([422, "invalid_options"]);
    expect(answer.body.detail).toContain(message);
    expect(answer.text).not.toContain("12345");
  });

  test.each(WRONG)("is a config_error where a file has it: %s", async (line, message) => {
    put({ "own.py": `${line}\n` });
    const { body } = await api.start();
    expect([body.status, body.code]).toEqual([500, "config_error"]);
    expect(body.detail).toMatch(message);
    expect(body.detail).not.toMatch(/<locals>|object at 0x/);
  });
});

test("settings without effect are told in warnings, until the next start, by a recovered server too", async () => {
  put({
    ".jupyter/jupyter_server_config.py": "c.ServerApp.base_url = '/elsewhere'\nc.ServerApp.open_browser = False\n",
  });
  const own = `ServerApp.base_url in ${join(api.folder, ".jupyter/jupyter_server_config.py")} has no effect: the control API sets it itself; use base-url`;
  const asked = {
    "MappingKernelManager.cull_idle_timout": 600,
    "MultiKernelManager.cull_interval": 60,
    "HTMLExporter.theme": "light",
    "NotebookApp.max_body_size": 1_000_000,
  };
  const { status, body } = await api.start(asked);
  expect(status).toBe(201);
  expect(body.warnings).toEqual([
    '"MappingKernelManager.cull_idle_timout" has no effect: the installed Jupyter has no such setting; did you mean MappingKernelManager.cull_idle_timeout?',
    own,
  ]);
  expect((await api.show()).body.warnings).toEqual(body.warnings);
  expect(JSON.parse(read(join(api.folder, "run", "connection.json"))).supervisor.warnings).toEqual(body.warnings);
  await api.stop();
  expect((await api.start()).body.warnings).toEqual([own]);
  await api.stop();
});
