/** The main job with the real JupyterLab, real kernels and a real client. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { startApi, warmUp } from "../support/config-files.ts";
import { type Json, NO_TEMPLATE, PYTHON, pidsWith, read, TestServer, until } from "../support/helpers.ts";
import { startKernel } from "../support/kernel.ts";

const LAB_LIMIT_MS = 60_000;

const ask = async (server: Json, path: string) =>
  (await fetch(`${server.url}${path}`, { headers: { authorization: `token ${server.token}` } })).json() as Json;

describe("a JupyterLab", () => {
  let api: TestServer;
  let server: Json;
  let client: Awaited<ReturnType<typeof startKernel>>;
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
    client = await startKernel(server);
  }, LAB_LIMIT_MS);
  afterAll(async () => {
    client[Symbol.dispose]();
    await api[Symbol.asyncDispose]();
  });

  test(
    "runs 1+1 for a client that has the answer of the POST only",
    async () => {
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
      const page = await (await fetch(server.lab_url)).text();
      expect(page).toContain('"news": {"disabled": true}');
      const log = (await api.readOutput()).join("\n");
      expect(log).toContain("Extension Manager is 'readonly'");
      expect(log).not.toMatch(/not recognized/);
      expect(log).not.toContain("quoted");
      const written = "import glob, os; len(glob.glob(os.environ['JUPYTER_RUNTIME_DIR'] + '/jpserver-*.html'))";
      expect(await client.run(written)).toBe("0");
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

/** Prints a start's secret to both outputs, and sets all that only the control API may set. */
const INDISCREET = [
  "import os, sys",
  "for out in (sys.stdout, sys.stderr): print('it is', os.environ.get('A_TOKEN'), file=out)",
  "c = get_config()",
  ...["ServerApp", "NotebookApp", "LabApp"].flatMap((name) => [
    `c.${name}.ip = '0.0.0.0'`,
    `c.${name}.port = 1`,
    `c.${name}.base_url = '/elsewhere/'`,
  ]),
  "c.IdentityProvider.token = 'theirs'",
  "c.PasswordIdentityProvider.token = 'theirs'",
].join("\n");

test.each([
  ["off", ["cold", "cold"]],
  ["armed", ["standby", "armed"]],
] as const)(
  "no secret is in the log file, whatever prints it, and a configuration file can't move JupyterLab, nor its token (STANDBY=%s)",
  async (STANDBY, kinds) => {
    const env = { STANDBY, ...NO_TEMPLATE, JUPYTER_CONFIG_FILE: "HOME/own.py", JUPYTER_GATEWAY_URL: "" };
    await using api = await startApi({ "own.py": INDISCREET }, env);
    const asked = { env: { A_TOKEN: "of-the-user" }, token: "of-jupyterlab", "ServerApp.log_level": "DEBUG" };
    await warmUp(api);
    const first = await api.start(asked);
    await api.standby(STANDBY === "armed" ? 2 : 0);
    const second = await api.ask("POST", "/api/servers/restart");
    expect([first, second].map(({ status, body }) => [status, body.start_kind])).toEqual(
      kinds.map((kind) => [201, kind]),
    );
    const { body } = second;
    expect(body).toMatchObject({ hostname: "127.0.0.1", port: Number(api.env.JUPYTER_PORT), base_url: "/" });
    expect((await fetch(`${body.url}api/status?token=theirs`)).status).toBe(403);
    const log = read(join(api.folder, "run", "jupyterlab.log"));
    // An armed process that no start has used has written it, too.
    expect(log.match(/it is \*\*\*/g)?.length).toBeGreaterThanOrEqual(4);
    expect(log).not.toMatch(/of-the-user|of-jupyterlab/);
  },
  LAB_LIMIT_MS,
);
