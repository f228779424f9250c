/** The standby with the real JupyterLab: quick starts at every moment that are never stale, and nothing left of it. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { copyFileSync, mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { readProcess } from "../../lib/procfs.ts";
import { logInByPassword, statusWith } from "../support/cookies.ts";
import { NO_TEMPLATE, PYTHON, read, until } from "../support/helpers.ts";
import { CONFIG, checkChangedConfig, ownConfig, prepare, status } from "../support/standby.ts";
import { TestServer } from "../support/test-server.ts";

const LIMIT_MS = 60_000;

/** The options of a JupyterLab that lets in by the password `open` only. */
const BY_PASSWORD = {
  token: "",
  "PasswordIdentityProvider.hashed_password": `sha1:salt:${createHash("sha1").update("opensalt").digest("hex")}`,
};

describe("on", () => {
  let api: TestServer;
  const file = ownConfig();
  const packages = mkdtempSync(join(tmpdir(), "packages-"));
  beforeAll(async () => {
    api = await prepare("on", { JUPYTER_CONFIG_FILE: file, PYTHONPATH: packages });
  }, LIMIT_MS);
  afterEach(async () => {
    await api.stop();
    copyFileSync(CONFIG, file);
    await api.standby(1);
  });
  afterAll(() => api[Symbol.asyncDispose]());

  test(
    "any options are forked from one zygote, whose life is not theirs",
    async () => {
      const [zygote = 0] = api.standbyPids();
      expect((await api.ask("GET", "/metrics")).text).toContain("\njupyter_server_standby_ready 1\n");
      const { body } = await api.start({
        "base-url": "/x",
        token: "~mine",
        env: { GREETING: "hello" },
        "MappingKernelManager.cull_interval": 77,
      });
      expect(body).toMatchObject({ start_kind: "standby", base_url: "/x/", token: "~mine" });
      expect(readProcess(body.pid)).toMatchObject({ session: body.pid, ppid: zygote });
      expect([await status(body, "~mine"), await status(body, "other")]).toEqual([200, 403]);
      await until("its log", () => api.output.some((line) => line.includes("is running at")));
      const [own = ""] = new Bun.Glob(`run/connection.json.lab-*/jpserver-${body.pid}.json`).scanSync({
        cwd: api.folder,
        absolute: true,
      });
      // What marks it and all that it starts, although it was forked.
      expect(read(`/proc/${body.pid}/environ`)).toContain(`JUPYTER_RUNTIME_DIR=${dirname(own)}\0`);
      await api.stop();
      expect(api.standbyPids()).toEqual([zygote]);
      expect(api.tree()).toEqual([zygote]);
    },
    LIMIT_MS,
  );

  test(
    "starts right after stops, restarts and crashes are all forked, and have tokens of their own",
    async () => {
      const [zygote = 0] = api.standbyPids();
      const tokens = new Set<string>();
      for (let round = 0; round < 5; round += 1) {
        const { body } = await api.start();
        expect(body.start_kind).toBe("standby");
        tokens.add(body.token);
        await api.stop();
      }
      expect(tokens.size).toBe(5);
      const first = (await api.start()).body;
      const second = (await api.ask("POST", "/api/servers/restart")).body;
      expect(second).toMatchObject({ start_kind: "standby", token: first.token, restarts: 0 });
      process.kill(second.pid, "SIGKILL");
      const third = await api.awaitRestart(second);
      expect(third).toMatchObject({
        start_kind: "standby",
        token: first.token,
        restarts: 1,
        last_exit: { exit_code: null, signal: "SIGKILL" },
      });
      expect(api.standbyPids()).toEqual([zygote]);
    },
    LIMIT_MS,
  );

  test("a configuration that has changed since is in force", () => checkChangedConfig(api, file), LIMIT_MS);

  test.each(["SIGKILL", "SIGSTOP"] as const)(
    "a JupyterLab outlives its zygote (%s), its end is still noticed, its logins by password outlive it, and a zygote that died is replaced",
    async (signal) => {
      const [zygote = 0] = api.standbyPids();
      const { body } = await api.start(BY_PASSWORD);
      const cookie = await logInByPassword(body, "open");
      const from = api.log.length;
      const hasLogged = (text: string) => api.log.slice(from).some((line) => line.includes(text));
      process.kill(zygote, signal);
      expect(await statusWith(body, cookie)).toBe(200);
      if (signal === "SIGKILL") {
        await until("it is seen", () => hasLogged("standby not ready"));
        await until("another one", () => api.standbyPids().length === 1 && api.standbyPids()[0] !== zygote);
      }
      process.kill(body.pid, "SIGKILL");
      await until("its end", () => hasLogged("server crashed"));
      if (signal === "SIGSTOP") process.kill(zygote, "SIGCONT");
      const next = await api.awaitRestart(body);
      expect(next.last_exit).toMatchObject({ code: "crashed" });
      expect([await statusWith(next, cookie), await statusWith(next, "")]).toEqual([200, 403]);
      expect((await api.stop()).status).toBe(200);
      expect((await api.start()).status).toBe(201);
    },
    LIMIT_MS,
  );

  test(
    "a zygote that was stopped is given up, and nothing of it starts later",
    async () => {
      const [stopped = 0] = api.standbyPids();
      process.kill(stopped, "SIGSTOP");
      const { status, body } = await api.start();
      expect([status, body.start_kind]).toEqual([201, "cold"]);
      expect(api.log.join("\n")).toContain("it reported nothing within 3 s");
      expect(readProcess(stopped)).toBeUndefined();
      await api.stop();
      await api.standby(1);
      expect(api.tree()).toEqual(api.standbyPids());
    },
    LIMIT_MS,
  );

  test(
    "a package that was installed or edited meanwhile makes a cold start, and a new zygote, whatever the package writes",
    async () => {
      const file = join(packages, "sitecustomize.py");
      // It writes text before the zygote's first report.
      const code = "import sys; sys.stdout.write('x'); sys.stdout.flush()";
      for (const [content, changed] of [
        [code, packages],
        [`${code}; 'edited'`, file],
      ] as const) {
        const [zygote] = api.standbyPids();
        writeFileSync(file, content);
        expect((await api.start()).body.start_kind).toBe("cold");
        expect(api.log.join("\n")).toContain(`${changed} has changed`);
        await until("another zygote", () => api.standbyPids().length === 1 && api.standbyPids()[0] !== zygote);
        await api.stop();
        expect((await api.start()).body.start_kind).toBe("standby");
        await api.stop();
      }
    },
    LIMIT_MS,
  );

  // At the end: the zygote is one for these options then.
  test(
    "an environment that is read at import makes a cold start, and the next zygote has it",
    async () => {
      const settings = mkdtempSync(join(tmpdir(), "lab-settings-"));
      const options = { env: { JUPYTERLAB_SETTINGS_DIR: settings } };
      expect((await api.start(options)).body.start_kind).toBe("cold");
      expect(api.log.join("\n")).toContain("JUPYTERLAB_SETTINGS_DIR was read before");
      await api.stop();
      await api.standby(1);
      expect((await api.start(options)).body.start_kind).toBe("standby");
    },
    LIMIT_MS,
  );
});

test(
  "a Python that can't be forked is told of once, and starts are cold",
  async () => {
    const site = mkdtempSync(join(tmpdir(), "site-"));
    const thread = "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()";
    writeFileSync(join(site, "sitecustomize.py"), thread);
    await using api = await TestServer.start({ PYTHON, STANDBY: "on", ...NO_TEMPLATE, PYTHONPATH: site });
    api.prepare();
    const warnings = () => api.log.filter((line) => line.includes("standby not ready"));
    await until("a warning", () => warnings().length > 0);
    expect(warnings()[0]).toContain("it has 2 threads after its imports");
    expect((await api.start()).body.start_kind).toBe("cold");
    await until("another attempt", () => api.tree().length > 1);
    await until("its end", () => api.tree().length === 1);
    expect(warnings()).toHaveLength(1);
  },
  LIMIT_MS,
);

test(
  "a start that waits for a zygote can be cancelled, and has its deadline",
  async () => {
    const python = join(mkdtempSync(join(tmpdir(), "site-")), "python");
    writeFileSync(python, "#!/bin/sh\nexec sleep 1000\n", { mode: 0o755 });
    const env = { PYTHON: python, STANDBY: "on" };
    await using impatient = await TestServer.start({ ...env, START_TIMEOUT_S: "1" });
    await using patient = await TestServer.start(env);
    for (const api of [impatient, patient]) {
      api.prepare();
      await until("a zygote", () => api.tree().length === 1);
    }
    expect((await impatient.start()).body).toMatchObject({ status: 504, code: "start_timeout" });
    const start = patient.start();
    await until("a start", async () => (await patient.show()).body.state === "starting");
    expect((await patient.stop()).status).toBe(200);
    expect((await start).body.code).toBe("start_cancelled");
    for (const api of [impatient, patient]) {
      // Neither start has waited until the zygote was given up.
      expect(api.log.filter((line) => line.includes("standby not used"))).toEqual([]);
      expect(api.tree()).toHaveLength(1);
    }
  },
  LIMIT_MS,
);
