/** The main job with the real JupyterLab, real kernels and a real client. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Json, PYTHON, pidsWith, read, TestServer, until } from "../helpers.ts";
import { startKernel } from "../kernel.ts";

const LAB_LIMIT_MS = 60_000;
const ADVICE = '"safe-mode": true';

const ask = async (server: Json, path: string) =>
  (await fetch(`${server.url}${path}`, { headers: { authorization: `token ${server.token}` } })).json() as Json;

describe("a JupyterLab", () => {
  let api: TestServer;
  let server: Json;
  beforeAll(async () => {
    api = await TestServer.start({ PYTHON, API_TOKEN: "of-the-control-api" });
    api.ask = (
      (ask) => (method, path, body, headers) =>
        ask(method, path, body, { authorization: "token of-the-control-api", ...headers })
    )(api.ask.bind(api));
    const answer = await api.start({
      token: "~'quoted' \"token\" ü",
      "base-url": "/user/jo@example.org",
      "default-url": "/lab/tree/first.ipynb",
      env: { GREETING: "hello" },
      "MappingKernelManager.cull_interval": 77,
      "ServerApp.extra_static_paths": ["/one", "/two words"],
    });
    expect(answer.body).toMatchObject({ state: "running" });
    server = answer.body;
  }, LAB_LIMIT_MS);
  afterAll(() => api[Symbol.asyncDispose]());

  test(
    "runs 1+1 for a client that has the answer of the POST only",
    async () => {
      using client = await startKernel(server);
      expect(await client.run("1+1")).toBe("2");
      expect(await client.run("import os; os.environ['GREETING']")).toBe("'hello'");
      expect(await client.run("[v for v in os.environ if v in ('API_TOKEN', 'JUPYTER_TOKEN', 'PORT', 'HOST')]")).toBe(
        "[]",
      );
      expect(await client.run("'of-the-control-api' in str(os.environ)")).toBe("False");
    },
    LAB_LIMIT_MS,
  );

  test("tells of itself what is true", async () => {
    const tokens = encodeURIComponent(server.token);
    expect(server.lab_url).toBe(`${server.url}lab/tree/first.ipynb?token=${tokens}`);
    expect((await fetch(server.lab_url)).status).toBe(200);
    expect((await fetch(server.lab_url.replace(/\?.*/, ""), { redirect: "manual" })).status).toBe(302);
    expect(server.version).toBe((await ask({ ...server, token: "" }, "api")).version);
    expect(server.notebook_dir).toBe(api.env.NOTEBOOK_DIR);
    expect(read(`/proc/${server.pid}/cmdline`)).not.toContain("quoted");
    expect(JSON.stringify(server.options)).not.toContain("quoted");
  });

  test(
    "has the settings of its file in force, and of its start above them",
    async () => {
      const { run, ...client } = await startKernel(server);
      using _ = client;
      const page = await (await fetch(server.lab_url)).text();
      expect(page).toContain('"news": {"disabled": true}');
      const log = api.output.join("\n");
      expect(log).toContain("Extension Manager is 'readonly'");
      expect(log).not.toMatch(/not recognized/);
      expect(log).not.toContain("quoted");
      expect(await run("import glob, os; len(glob.glob(os.environ['JUPYTER_RUNTIME_DIR'] + '/jpserver-*.html'))")).toBe(
        "0",
      );
    },
    LAB_LIMIT_MS,
  );

  test(
    "takes its kernels, deaf ones, and what they have detached, with it",
    async () => {
      const mark = `sleep ${100_000 + process.pid}`;
      const argv = mark
        .split(" ")
        .map((part) => `"${part}"`)
        .join(", ");
      using client = await startKernel(server);
      await client.run(`import subprocess; subprocess.Popen([${argv}], start_new_session=True)`);
      await client.run(`subprocess.run("setsid nohup ${mark} >/dev/null 2>&1 &", shell=True)`);
      await client.run(
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.signal(signal.SIGINT, signal.SIG_IGN)",
      );
      void client.kernel.requestExecute({ code: "import time\nwhile True: time.sleep(1)" });
      const detached = () => pidsWith(mark.replace(" ", "\0"));
      await until("two detached processes", () => detached().length === 2);
      expect((await api.stop()).body).toEqual({ message: "Server shutdown was successful" });
      expect(detached()).toEqual([]);
      expect(api.tree()).toEqual([]);
      await until("the port is free", () =>
        fetch(server.url).then(
          () => false,
          () => true,
        ),
      );
    },
    LAB_LIMIT_MS,
  );
});

describe("a start that fails leaves nothing, says why, and the next one works", () => {
  let shared: TestServer;
  const file = join(mkdtempSync(join(tmpdir(), "jupyter-config-")), "jupyter_notebook_config.py");
  beforeAll(async () => {
    writeFileSync(file, "");
    shared = await TestServer.start({ PYTHON, STANDBY: "on", JUPYTER_CONFIG_FILE: file });
    shared.prepare();
    await shared.standby(1);
  }, LAB_LIMIT_MS);
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
      writeFileSync(file, text);
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
      writeFileSync(file, "");
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
});

test.each(["off", "on"])(
  "safe-mode starts in spite of every configuration file, with the same notebooks, and leaves no folder (STANDBY=%s)",
  async (STANDBY) => {
    await using api = await startWithConfig("raise ValueError('broken')\n", { STANDBY });
    api.prepare();
    const [home, TMPDIR] = [join(api.folder, ".jupyter"), join(api.folder, "tmp")];
    for (const folder of [home, TMPDIR]) mkdirSync(folder);
    writeFileSync(join(home, "jupyter_config.py"), "raise ValueError('broken, too')\n");
    const failed = await api.start({ env: { HOME: api.folder } });
    expect(failed.body).toMatchObject({ status: 500, code: "config_error" });
    expect(failed.body.detail).toContain(ADVICE);
    const { status, body } = await api.start({ env: { HOME: api.folder, TMPDIR }, "safe-mode": true });
    expect(status).toBe(201);
    expect(body.notebook_dir).toBe(api.env.NOTEBOOK_DIR);
    expect(readdirSync(home)).toEqual(["jupyter_config.py"]);
    await api.stop();
    expect(readdirSync(TMPDIR)).toEqual([]);
  },
  LAB_LIMIT_MS,
);

describe("safe-mode starts in spite of a third-party extension that", () => {
  let shared: TestServer;
  const home = mkdtempSync(join(tmpdir(), "jupyter-extension-"));
  const [site, config] = [join(home, "site"), join(home, "config")];
  const write = (source: string) => writeFileSync(join(site, "third_party", "__init__.py"), `${POINTS}${source}`);
  beforeAll(async () => {
    mkdirSync(join(site, "third_party"), { recursive: true });
    write("");
    mkdirSync(join(config, "jupyter_server_config.d"), { recursive: true });
    const enabled = JSON.stringify({ ServerApp: { jpserver_extensions: { third_party: true } } });
    writeFileSync(join(config, "jupyter_server_config.d", "third_party.json"), enabled);
    const env = { PYTHONPATH: site, JUPYTER_CONFIG_PATH: config, PYTHONDONTWRITEBYTECODE: "1" };
    shared = await TestServer.start({ PYTHON, STANDBY: "on", ...env });
    shared.prepare();
  }, LAB_LIMIT_MS);
  afterEach(() => shared.stop());
  afterAll(async () => {
    await shared[Symbol.asyncDispose]();
    rmSync(home, { recursive: true });
  });

  const POINTS = "def _jupyter_server_extension_points():\n    return [{'module': 'third_party'}]\n";
  const LOAD = "def _load_jupyter_server_extension(app):\n    ";
  const REFUSE = `from jupyter_server.base.handlers import JupyterHandler
from tornado.web import HTTPError

async def refuse(self, **options):
    raise HTTPError(403)

JupyterHandler.prepare = refuse
${LOAD}pass
`;
  // biome-ignore format: a table reads best in rows
  test.each([
    ["ends the program when it is imported", "import sys\nsys.exit(3)\n", "crashed", /exit code 3/],
    ["ends the program when it is loaded", `${LOAD}raise SystemExit(4)\n`, "crashed", /exit code 4/],
    ["crashes in machine code", `import ctypes\n${LOAD}ctypes.string_at(0)\n`, "crashed", /signal SIGSEGV/],
    ["refuses every request", REFUSE, "config_error", /refuses the control API's own request \(status 403/],
  ])("%s", async (_title, source, code, reason) => {
    write(source);
    const failed = await shared.start();
    expect(failed.body).toMatchObject({ status: 500, code });
    expect(failed.body.detail).toMatch(reason);
    expect(failed.body.detail).toContain(ADVICE);
    const last = failed.body.log_tail.at(-1);
    // One that ends while it is imported has logged nothing.
    if (last) await until("the end of its log", () => shared.output.includes(last));
    const { status, body } = await shared.start({ "safe-mode": true });
    expect(status).toBe(201);
    expect(shared.output.slice(shared.output.lastIndexOf(last) + 1).join()).not.toContain("third_party");
    using client = await startKernel(body);
    expect(await client.run("1+1")).toBe("2");
  }, LAB_LIMIT_MS);
});

test.each(["off", "on", "armed"])(
  "no secret is in the log file, whatever prints it (STANDBY=%s)",
  async (standby) => {
    const text =
      "import os, sys\nfor out in (sys.stdout, sys.stderr): print('it is', os.environ['A_TOKEN'], file=out)\n";
    await using api = await startWithConfig(text, { STANDBY: standby, JUPYTER_GATEWAY_URL: "" });
    const asked = { env: { A_TOKEN: "of-the-user" }, token: "of-jupyterlab", "ServerApp.log_level": "DEBUG" };
    api.prepare();
    if (standby !== "off") await api.standby(1);
    expect((await api.start(asked)).status).toBe(201);
    expect((await api.ask("POST", "/api/servers/restart")).status).toBe(201);
    const log = read(join(api.folder, "run", "jupyterlab.log"));
    // An armed process that no start has used has written it, too.
    expect(log.match(/it is \*\*\*/g)?.length).toBeGreaterThanOrEqual(4);
    expect(log).not.toMatch(/of-the-user|of-jupyterlab/);
  },
  LAB_LIMIT_MS,
);

test(
  "a configuration file can't move JupyterLab, nor its token",
  async () => {
    const lines = ["ServerApp", "NotebookApp", "LabApp"].flatMap((name) => [
      `c.${name}.ip = '0.0.0.0'`,
      `c.${name}.port = 1`,
      `c.${name}.base_url = '/elsewhere/'`,
    ]);
    const token = ["c.IdentityProvider.token = 'theirs'", "c.PasswordIdentityProvider.token = 'theirs'"];
    await using api = await startWithConfig(["c = get_config()", ...lines, ...token].join("\n"));
    const { status, body } = await api.start();
    expect(status).toBe(201);
    expect(body).toMatchObject({ hostname: "127.0.0.1", port: Number(api.env.JUPYTER_PORT), base_url: "/" });
    expect((await fetch(`${body.url}api/status?token=theirs`)).status).toBe(403);
  },
  LAB_LIMIT_MS,
);

/** A control API with a configuration file of its own. */
async function startWithConfig(text: string, more: Record<string, string> = {}): Promise<TestServer> {
  const file = join(mkdtempSync(join(tmpdir(), "jupyter-config-")), "jupyter_notebook_config.py");
  writeFileSync(file, text);
  return TestServer.start({ PYTHON, JUPYTER_CONFIG_FILE: file, ...more });
}
