/** Starts of the real JupyterLab that fail: they say why and leave nothing, and safe mode starts in spite of them. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { type Files, run, send, startApi, warmUp, withToken, write } from "../support/config-files.ts";
import { type Json, NO_TEMPLATE, PYTHON, read, until } from "../support/helpers.ts";
import { startKernel } from "../support/kernel.ts";
import { TestServer } from "../support/test-server.ts";

const LAB_LIMIT_MS = 60_000;
const ADVICE = '"safe-mode": true';

const LOAD = "def _load_jupyter_server_extension(app):\n    ";
const REFUSE = `from jupyter_server.base.handlers import JupyterHandler
from tornado.web import HTTPError

async def refuse(self, **options):
    raise HTTPError(403)

JupyterHandler.prepare = refuse
${LOAD}pass
`;
// biome-ignore format: a table reads best in rows
const EXTENSIONS = [
  { what: "ends the program when it is imported", source: "import sys\nsys.exit(3)\n", code: "crashed", reason: /exit code 3/ },
  { what: "ends the program when it is loaded", source: `${LOAD}raise SystemExit(4)\n`, code: "crashed", reason: /exit code 4/ },
  { what: "refuses every request", source: REFUSE, code: "config_error", reason: /refuses the control API's own request \(status 403/ },
  // At the end: it makes the control API boot another zygote.
  { what: "crashes in machine code", source: `import ctypes\n${LOAD}ctypes.string_at(0)\n`, code: "crashed", reason: /signal SIGSEGV/ },
].map((extension, index) => ({ ...extension, name: `third_party_${index}` }));

/** Serves the starts of all tests but two, each with the files that a test has written, which are gone after it. */
let shared: TestServer;
const put = (files: Files) => write(shared.folder, files);
const enable = (...names: string[]) => {
  const jpserver_extensions = Object.fromEntries(names.map((name) => [name, true]));
  const text = JSON.stringify({ ServerApp: { jpserver_extensions } });
  put({ "config/jupyter_server_config.d/extensions.json": text });
};
beforeAll(async () => {
  const sources = EXTENSIONS.map(({ name, source }) => [
    `site/${name}/__init__.py`,
    `def _jupyter_server_extension_points():\n    return [{'module': '${name}'}]\n${source}`,
  ]);
  const files: Files = { "own.py": "", ...Object.fromEntries(sources) };
  const env = { PYTHONPATH: "HOME/site", JUPYTER_CONFIG_PATH: "HOME/config", PYTHONDONTWRITEBYTECODE: "1" };
  shared = await startApi(files, { STANDBY: "on", ...NO_TEMPLATE, JUPYTER_CONFIG_FILE: "HOME/own.py", ...env });
  await warmUp(shared);
}, LAB_LIMIT_MS);
afterEach(async () => {
  await shared.stop();
  for (const name of [".jupyter", ".ipython"]) rmSync(join(shared.folder, name), { recursive: true, force: true });
  put({ "own.py": "" });
  enable();
});
afterAll(() => shared[Symbol.asyncDispose]());

const expectNothingLeft = () => expect(shared.tree()).toEqual(shared.standbyPids());

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
  ["a syntax error in the control API's own file", "own.py", "c = get_config(\n", /SyntaxError/],
  ["an exception in it", "own.py", "c = get_config()\nraise ValueError('out of order')\n", /line 2.*ValueError: out of order/],
  ["an exit in it", "own.py", "import sys\nsys.exit(3)\n", /sys\.exit\(3\)/],
  ["a module that is missing", "own.py", "import nothing_of_that_name\n", /nothing_of_that_name/],
  ["a file of another extension", ".jupyter/jupyter_jupyter_server_terminals_config.py", "1/0\n", /\(line 1\): ZeroDivisionError/],
];
describe("a configuration file that does not load", () => {
  afterEach(expectNothingLeft);

  test.each(BROKEN)("%s fails the start, and the answer names the file", async (_, file, content, reason) => {
    put({ [file]: content });
    const { status, body } = await shared.start();
    expect([status, body.code, body.exit_code]).toEqual([500, "config_error", 1]);
    expect(body.detail).toContain(`The configuration file ${join(shared.folder, file)} does not load`);
    expect(body.detail).toMatch(reason);
    expect(body.detail).not.toContain("if a configuration file");
  });

  test("is named also where it is a folder, or a link to nothing", async () => {
    const path = join(shared.folder, ".jupyter", "jupyter_server_config.json");
    mkdirSync(path, { recursive: true });
    expect((await shared.start()).body.detail).toContain(`${path} does not load: it is a folder`);
    rmSync(path, { recursive: true });
    symlinkSync("nowhere.json", path);
    expect((await shared.start()).body.detail).toContain(`${path} does not load: it is a link to nowhere.json`);
  });

  test("is told apart from too little memory", async () => {
    put({ "own.py": "x = bytearray(2 ** 60)\n" });
    const { status, body } = await shared.start();
    expect([status, body.code, body.exit_code]).toEqual([500, "out_of_memory", 1]);
    expect(body.detail).toMatch(/MemoryError/);
  });
});

// biome-ignore format: a table reads best in rows
const REFUSED: [body: object, message: string][] = [
  [{ "MappingKernelManager.cull_idle_timeout": "abc" }, '"MappingKernelManager.cull_idle_timeout" must be an int, got "abc"'],
  [{ "LabApp.dev_mode": "perhaps" }, '"LabApp.dev_mode" must be a boolean, got "perhaps"'],
  [{ "ContentsManager.hide_globs": "[1]" }, '"ContentsManager.hide_globs" must be a list, each item a unicode string, got "[1]"'],
  [{ "ContentsManager.hide_globs": "{'*.zzz'}" }, '"ContentsManager.hide_globs" must be a list'],
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
  afterEach(expectNothingLeft);

  test.each(REFUSED)("is refused where a start asks for it: %j", async (body, message) => {
    const answer = await shared.start(body);
    expect([answer.status, answer.body.code]).toEqual([422, "invalid_options"]);
    expect(answer.body.detail).toContain(message);
    expect(answer.text).not.toContain("12345");
  });

  test.each(WRONG)("is a config_error where a file has it: %s", async (line, message) => {
    put({ "own.py": `${line}\n` });
    const { body } = await shared.start();
    expect([body.status, body.code, body.exit_code]).toEqual([500, "config_error", 1]);
    expect(body.detail).toMatch(message);
    expect(body.detail).not.toMatch(/<locals>|object at 0x/);
  });

  test("is told where a start names a certificate that does not load, with its setting and the reason", async () => {
    const certificate = join(shared.folder, "bad.pem");
    writeFileSync(certificate, "no certificate\n");
    const { status, body } = await shared.start({ "ServerApp.certfile": certificate });
    expect([status, body.code]).toEqual([422, "invalid_options"]);
    expect(body.message).toStartWith('"ServerApp.certfile" must be a PEM certificate that fits its key: [SSL]');
    expect(body.message).not.toContain("safe-mode");
  });
});

test("extensions can be turned off, and settings without effect are told in warnings, until the next start, by a recovered server too", async () => {
  put({
    ".jupyter/jupyter_server_config.py": "c.ServerApp.base_url = '/elsewhere'\nc.ServerApp.open_browser = False\n",
  });
  const own = `ServerApp.base_url in ${join(shared.folder, ".jupyter/jupyter_server_config.py")} has no effect: the control API sets it itself; use base-url`;
  const asked = {
    "MappingKernelManager.cull_idle_timout": 600,
    "MultiKernelManager.cull_interval": 60,
    "HTMLExporter.theme": "light",
    "NotebookApp.max_body_size": 1_000_000,
    "ServerApp.jpserver_extensions": "{'jupyter_lsp': False}",
    "ContentsManager.hide_globs": "['*.zzz']",
  };
  const { status, body } = await shared.start(asked);
  expect(status).toBe(201);
  const hasExtension = async (server: Json) => (await send(server, "lsp/status", withToken(server))).status === 200;
  expect(await hasExtension(body)).toBe(false);
  // A list may be written as in a configuration file.
  writeFileSync(join(shared.env.NOTEBOOK_DIR ?? "", "a.zzz"), "");
  const listed: Json = JSON.parse((await send(body, "api/contents", withToken(body))).body);
  expect(listed.content).toEqual([]);
  expect(body.warnings).toEqual([
    '"MappingKernelManager.cull_idle_timout" has no effect: the installed Jupyter has no such setting; did you mean MappingKernelManager.cull_idle_timeout?',
    own,
  ]);
  expect((await shared.show()).body.warnings).toEqual(body.warnings);
  expect(JSON.parse(read(join(shared.folder, "run", "connection.json"))).supervisor.warnings).toEqual(body.warnings);
  await shared.stop();
  const next = (await shared.start()).body;
  expect(next.warnings).toEqual([own]);
  expect(await hasExtension(next)).toBe(true);
});

test(
  "a port that is taken is told, nothing is left, and the next start works",
  async () => {
    const occupant = createServer();
    await new Promise<void>((settle) => occupant.listen(Number(shared.env.JUPYTER_PORT), "127.0.0.1", settle));
    const { status, body } = await shared.start();
    expect([status, body.code, body.exit_code]).toEqual([409, "port_in_use", 1]);
    expect(body.message).toContain(shared.env.JUPYTER_PORT);
    expect(body.log_tail.join("\n")).toContain("is not available");
    expectNothingLeft();
    await new Promise((settle) => occupant.close(settle));
    expect((await shared.start()).status).toBe(201);
  },
  LAB_LIMIT_MS,
);

test("a Python without JupyterLab is told", async () => {
  const python = join(mkdtempSync(join(tmpdir(), "jupyter-python-")), "python");
  writeFileSync(python, `#!/bin/sh\nexec ${PYTHON} -I -S "$@"\n`, { mode: 0o755 });
  await using api = await TestServer.start({ PYTHON: python });
  const { status, body } = await api.start();
  expect([status, body.code, body.exit_code]).toEqual([500, "jupyter_not_found", 1]);
  expect(body.message).toContain(python);
  expect(body.traceback).toContain("ModuleNotFoundError");
});

/** Shows that safe mode leaves out all configuration files: that of the control API, and that of its HOME. */
async function checkSafeMode(api: TestServer, checkMore: (server: Json) => Promise<void> = async () => {}) {
  const TMPDIR = join(api.folder, "tmp");
  mkdirSync(TMPDIR);
  write(api.folder, {
    "own.py": "raise ValueError('broken')\n",
    ".jupyter/jupyter_config.py": "raise ValueError('broken, too')\n",
  });
  const failed = await api.start();
  expect(failed.body).toMatchObject({ status: 500, code: "config_error" });
  expect(failed.body.detail).toContain(ADVICE);
  const before = readdirSync(join(api.folder, ".jupyter"));
  const { status, body } = await api.start({ env: { TMPDIR }, "safe-mode": true });
  expect(status).toBe(201);
  expect(body.notebook_dir).toBe(api.env.NOTEBOOK_DIR);
  expect((await fetch(body.lab_url)).status).toBe(200);
  await checkMore(body);
  expect(readdirSync(join(api.folder, ".jupyter"))).toEqual(before);
  await api.stop();
  expect(readdirSync(TMPDIR)).toEqual([]);
}
const SAFE_TITLE =
  "safe-mode starts in spite of every configuration file, with the same notebooks, and leaves no folder";

test(
  `${SAFE_TITLE}, those of JupyterLab's application folder included (STANDBY=off)`,
  async () => {
    await using api = await startApi(
      { "own.py": "" },
      { JUPYTER_CONFIG_FILE: "HOME/own.py", JUPYTERLAB_DIR: "HOME/app" },
    );
    const [own, stock] = [join(api.folder, "app"), join(dirname(dirname(PYTHON)), "share", "jupyter", "lab")];
    write(own, { "settings/page_config.json": "{,}" });
    for (const name of ["static", "schemas", "themes"]) symlinkSync(join(stock, name), join(own, name));
    const broken = join(own, "settings", "page_config.json");
    expect((await api.start()).body.detail).toContain(`${broken} does not load (line 1)`);
    write(own, { "settings/overrides.d/a.json5": "{,", "settings/page_config.json": "{}" });
    const { detail } = (await api.start()).body;
    expect(detail).toContain(
      `${join(own, "settings", "overrides.d", "a.json5")} does not load: ValueError: <string>:1`,
    );
    write(own, { "settings/page_config.json": "{,}" });
    await checkSafeMode(api);
  },
  LAB_LIMIT_MS,
);

test(
  `${SAFE_TITLE}, in spite of all these extensions too (STANDBY=on)`,
  async () => {
    enable(...EXTENSIONS.map(({ name }) => name));
    const position = shared.output.length;
    await checkSafeMode(shared, async (server) => {
      using client = await startKernel(server);
      expect(await client.run("1+1")).toBe("2");
      const log = () => shared.output.slice(position).join("\n");
      await until("its log", () => log().includes("is running at"));
      expect(log()).not.toContain("third_party");
    });
  },
  LAB_LIMIT_MS,
);

test.each(EXTENSIONS)(
  "an extension that $what fails the start, and safe mode is advised",
  async ({ name, code, reason }) => {
    enable(name);
    const failed = await shared.start();
    expect(failed.body).toMatchObject({ status: 500, code });
    expect(failed.body.detail).toMatch(reason);
    expect(failed.body.detail).toContain(ADVICE);
    const last = failed.body.log_tail.at(-1);
    // One that ends while it is imported has logged nothing.
    if (last) await until("the end of its log", () => shared.output.includes(last));
  },
);
