/** Starts of the real JupyterLab that fail: they say why and leave nothing, and safe mode starts in spite of them. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { startApi, warmUp, write } from "../support/config-files.ts";
import { type Json, PYTHON, TestServer, until } from "../support/helpers.ts";
import { startKernel } from "../support/kernel.ts";

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
  const { status, body } = await api.start({ env: { TMPDIR }, "safe-mode": true });
  expect(status).toBe(201);
  expect(body.notebook_dir).toBe(api.env.NOTEBOOK_DIR);
  await checkMore(body);
  expect(readdirSync(join(api.folder, ".jupyter"))).toEqual(["jupyter_config.py"]);
  await api.stop();
  expect(readdirSync(TMPDIR)).toEqual([]);
}
const SAFE_TITLE =
  "safe-mode starts in spite of every configuration file, with the same notebooks, and leaves no folder";

test(
  `${SAFE_TITLE} (STANDBY=off)`,
  async () => {
    await using api = await startApi({}, { JUPYTER_CONFIG_FILE: "HOME/own.py" });
    await checkSafeMode(api);
  },
  LAB_LIMIT_MS,
);

describe("a start that fails leaves nothing, says why, and the next one works", () => {
  let shared: TestServer;
  const put = (text: string) => write(shared.folder, { "own.py": text });
  const enable = (...names: string[]) => {
    const jpserver_extensions = Object.fromEntries(names.map((name) => [name, true]));
    const text = JSON.stringify({ ServerApp: { jpserver_extensions } });
    write(shared.folder, { "config/jupyter_server_config.d/extensions.json": text });
  };
  beforeAll(async () => {
    const files = EXTENSIONS.map(({ name, source }) => [
      `site/${name}/__init__.py`,
      `def _jupyter_server_extension_points():\n    return [{'module': '${name}'}]\n${source}`,
    ]);
    const env = { PYTHONPATH: "HOME/site", JUPYTER_CONFIG_PATH: "HOME/config", PYTHONDONTWRITEBYTECODE: "1" };
    shared = await startApi(Object.fromEntries(files), { STANDBY: "on", JUPYTER_CONFIG_FILE: "HOME/own.py", ...env });
    await warmUp(shared);
  }, LAB_LIMIT_MS);
  beforeEach(() => {
    put("");
    enable();
    for (const name of [".jupyter", ".ipython"]) rmSync(join(shared.folder, name), { recursive: true, force: true });
  });
  afterEach(() => shared.stop());
  afterAll(() => shared[Symbol.asyncDispose]());

  test.each([
    ["a syntax error", "c = get_config(\n", "config_error", /SyntaxError/],
    [
      "an exception",
      "c = get_config()\nraise ValueError('out of order')\n",
      "config_error",
      /line 2.*ValueError: out of order/,
    ],
    ["an exit", "import sys\nsys.exit(3)\n", "config_error", /sys\.exit\(3\)/],
    ["a wrong value", "c = get_config()\nc.ServerApp.max_body_size = 'much'\n", "config_error", /max_body_size/],
    ["a module that is missing", "import nothing_of_that_name\n", "config_error", /nothing_of_that_name/],
    ["too little memory", "x = bytearray(2 ** 60)\n", "out_of_memory", /MemoryError/],
  ])(
    "%s in the configuration file",
    async (_title, text, code, message) => {
      put(text);
      const { status, body } = await shared.start();
      expect([status, body.code]).toEqual([500, code]);
      expect(body.message).toMatch(message);
      expect(body.exit_code).toBe(1);
      expect(shared.tree()).toEqual(shared.standbyPids());
    },
    LAB_LIMIT_MS,
  );

  test(
    "a port that is taken",
    async () => {
      const occupant = createServer();
      await new Promise<void>((settle) => occupant.listen(Number(shared.env.JUPYTER_PORT), "127.0.0.1", settle));
      const { status, body } = await shared.start();
      expect([status, body.code, body.exit_code]).toEqual([409, "port_in_use", 1]);
      expect(body.message).toContain(shared.env.JUPYTER_PORT);
      expect(body.log_tail.join("\n")).toContain("is not available");
      expect(shared.tree()).toEqual(shared.standbyPids());
      await new Promise((settle) => occupant.close(settle));
      expect((await shared.start()).status).toBe(201);
      await shared.stop();
    },
    LAB_LIMIT_MS,
  );

  test("a certificate that does not load, with its setting and the reason", async () => {
    const certificate = join(shared.folder, "bad.pem");
    writeFileSync(certificate, "no certificate\n");
    const { status, body } = await shared.start({ "ServerApp.certfile": certificate });
    expect([status, body.code]).toEqual([500, "config_error"]);
    expect(body.message).toStartWith(
      "A Jupyter setting is wrong: ServerApp.certfile must be a PEM certificate that fits its key: [SSL]",
    );
    expect(body.message).not.toContain("safe-mode");
    expect(shared.tree()).toEqual(shared.standbyPids());
  });

  test("a Python without JupyterLab", async () => {
    const python = join(mkdtempSync(join(tmpdir(), "jupyter-python-")), "python");
    writeFileSync(python, `#!/bin/sh\nexec ${PYTHON} -I -S "$@"\n`, { mode: 0o755 });
    await using api = await TestServer.start({ PYTHON: python });
    const { status, body } = await api.start();
    expect([status, body.code, body.exit_code]).toEqual([500, "jupyter_not_found", 1]);
    expect(body.message).toContain(python);
    expect(body.traceback).toContain("ModuleNotFoundError");
  });

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

  test.each(EXTENSIONS)("an extension that $what", async ({ name, code, reason }) => {
    enable(name);
    const failed = await shared.start();
    expect(failed.body).toMatchObject({ status: 500, code });
    expect(failed.body.detail).toMatch(reason);
    expect(failed.body.detail).toContain(ADVICE);
    const last = failed.body.log_tail.at(-1);
    // One that ends while it is imported has logged nothing.
    if (last) await until("the end of its log", () => shared.output.includes(last));
  });
});
