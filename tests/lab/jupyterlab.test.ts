/** The main job with the real JupyterLab, real kernels and a real client. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { checkIndiscreet, INDISCREET, INDISCREET_TITLE, startApi } from "../support/config-files.ts";
import { type Json, PROJECT, pidsWith, read, until } from "../support/helpers.ts";
import { startKernel } from "../support/kernel.ts";
import type { Answer, TestServer } from "../support/test-server.ts";

const LAB_LIMIT_MS = 60_000;

const ask = async (server: Json, path: string) =>
  (await fetch(`${server.url}${path}`, { headers: { authorization: `token ${server.token}` } })).json() as Json;

/** Tells of packages whose import JupyterLab defers, and uses them. */
const DEFERRED = `
import contextlib, io, json, sys
with contextlib.redirect_stderr(io.StringIO()) as errors:
    deferred = [name not in sys.modules for name in ("requests.sessions", "arrow.arrow")]
    import requests.adapters
    import requests
    same = requests.adapters is sys.modules["requests.adapters"], requests.adapters.HTTPAdapter is requests.sessions.HTTPAdapter
    loader = requests.adapters.__spec__.loader.__class__.__name__
    from arrow import get
    from isoduration import parse_duration
    dates = get("2026-11-24").year, int(parse_duration("P1D").date.days)
print("IMPORTS", json.dumps([deferred, same, loader, dates, errors.getvalue()]))
`;
const SHIPPED_CONFIG = readFileSync(join(PROJECT, "jupyter_notebook_config.py"), "utf8");

describe("a JupyterLab", () => {
  let api: TestServer;
  let first: Answer;
  let second: Answer;
  let server: Json;
  let client: Awaited<ReturnType<typeof startKernel>>;
  beforeAll(async () => {
    const env = { API_TOKEN: "of-the-control-api", JUPYTER_CONFIG_FILE: "HOME/own.py", JUPYTER_GATEWAY_URL: "" };
    api = await startApi({ "own.py": `${SHIPPED_CONFIG}${DEFERRED}${INDISCREET}` }, env);
    api.ask = (
      (ask) => (method, path, body, headers) =>
        ask(method, path, body, { authorization: "token of-the-control-api", ...headers })
    )(api.ask.bind(api));
    first = await api.start({
      token: "~'quoted' \"token\" ü",
      "base-url": "/user/jo@example.org",
      "default-url": "/lab/tree/first.ipynb",
      env: { GREETING: "hello", A_TOKEN: "of-the-user", A_PRIVATE_KEY: "first-half-0123\nsecond-half-9876" },
      "MappingKernelManager.cull_interval": 77,
      "ServerApp.extra_static_paths": ["/one", "/two words"],
      "ServerApp.log_level": "DEBUG",
    });
    second = await api.ask("POST", "/api/servers/restart");
    server = second.body;
    expect(server).toMatchObject({ state: "running" });
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

  test("each line of a secret is masked where a kernel's child writes it", async () => {
    await client.run("import subprocess; subprocess.run(['printenv', 'A_PRIVATE_KEY'], stdout=2).returncode");
    const output = await api.readOutput();
    expect(output.join("\n")).not.toMatch(/first-half|second-half/);
    expect(output.filter((line) => line === "***")).toHaveLength(2);
  });

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

  test("imports a deferred package at its first use, whole and once", async () => {
    const facts = (await api.readOutput()).filter((line) => line.startsWith("IMPORTS "));
    const expected = [[true, true], [true, true], "SourceFileLoader", [2026, 1], ""];
    // Of the start, and of the restart.
    expect(facts.map((line) => JSON.parse(line.slice("IMPORTS ".length)))).toEqual([expected, expected]);
  });

  test(`${INDISCREET_TITLE} (STANDBY=off)`, async () => {
    await checkIndiscreet(api, [first, second], ["cold", "cold"], "/user/jo@example.org/");
  });

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
