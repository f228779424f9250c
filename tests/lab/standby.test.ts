/** The standby with the real JupyterLab: quick starts that are never stale, and nothing left of it. */
import { expect, test } from "bun:test";
import { appendFileSync, copyFileSync, mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Pauses } from "../../lab/pauses.ts";
import { readProcess } from "../../lib/procfs.ts";
import { type Json, makeEnv, PROJECT, PYTHON, pidsWith, TestServer, until } from "../helpers.ts";

const LIMIT_MS = 30_000;

async function prepare(
  standby: "idle" | "armed",
  more: Record<string, string> = {},
  pauses: Partial<Pauses> = {},
): Promise<TestServer> {
  const env = { PYTHON, STANDBY: standby, LOG_LEVEL: "debug", ...more };
  const api = await TestServer.start(env, undefined, pauses);
  api.prepare();
  await api.standby(standby === "armed" ? 2 : 1);
  return api;
}

const status = async ({ url }: Json, token: string) =>
  (await fetch(`${url}api/status?token=${encodeURIComponent(token)}`)).status;

/** A configuration file that the test may change. */
function ownConfig(): string {
  const file = join(mkdtempSync(join(tmpdir(), "jupyter-config-")), "jupyter_notebook_config.py");
  copyFileSync(join(PROJECT, "jupyter_notebook_config.py"), file);
  return file;
}

test(
  "idle: any options take the standby, and it is made anew after the stop",
  async () => {
    await using api = await prepare("idle");
    const [waiting] = api.tree();
    const { body } = await api.start({
      "base-url": "/x",
      token: "~mine",
      env: { GREETING: "hello" },
      "MappingKernelManager.cull_interval": 77,
    });
    expect(body).toMatchObject({ start_kind: "standby", pid: waiting, base_url: "/x/", token: "~mine" });
    expect(readProcess(body.pid)?.session).toBe(body.pid);
    expect([await status(body, "~mine"), await status(body, "other")]).toEqual([200, 403]);
    await until("its log", () => api.output.some((line) => line.includes("is running at")));
    await until("nobody else", () => api.tree().join() === String(body.pid));
    await api.stop();
    await api.standby(1);
    expect((await api.start()).body.start_kind).toBe("standby");
  },
  LIMIT_MS,
);

test(
  "armed: the options of the last start are let go, others are not, and no token is anybody's twice",
  async () => {
    await using api = await prepare("armed");
    const first = (await api.start()).body;
    expect(first.start_kind).toBe("armed");
    expect(await status(first, first.token)).toBe(200);
    await api.standby(2);
    await api.stop();
    const others = (await api.start({ "base-url": "/other" })).body;
    expect(others).toMatchObject({ start_kind: "standby", base_url: "/other/" });
    await api.standby(2);
    await api.stop();
    await api.standby(2);
    const again = (await api.start({ "base-url": "/other" })).body;
    expect(again).toMatchObject({ start_kind: "armed", base_url: "/other/" });
    expect(new Set([first.token, others.token, again.token]).size).toBe(3);
    expect([await status(again, others.token), await status(again, again.token)]).toEqual([403, 200]);
  },
  LIMIT_MS,
);

test(
  "armed: a restart and a crash are answered by it, with the same token",
  async () => {
    await using api = await prepare("armed");
    const first = (await api.start()).body;
    await api.standby(2);
    const second = (await api.ask("POST", "/api/servers/restart")).body;
    expect(second).toMatchObject({ start_kind: "armed", token: first.token, restarts: 0 });
    await api.standby(2);
    process.kill(second.pid, "SIGKILL");
    const third = await until("a restart", async () => {
      const { body } = await api.show();
      return body.state === "running" && body.pid !== second.pid ? body : undefined;
    });
    expect(third).toMatchObject({ start_kind: "armed", token: first.token, restarts: 1 });
    expect(await status(third, first.token)).toBe(200);
  },
  LIMIT_MS,
);

test.each(["idle", "armed"] as const)(
  "%s: a configuration that has changed since is in force",
  async (standby) => {
    const file = ownConfig();
    await using api = await prepare(standby, { JUPYTER_CONFIG_FILE: file });
    appendFileSync(file, "c.ServerApp.websocket_ping_interval = 1234\nc.ServerApp.extra_static_paths = ['/changed']\n");
    appendFileSync(file, "c.ServerApp.certfile = ''\nc.ServerApp.allow_origin = 'https://changed.example.org'\n");
    const { body } = await api.start();
    expect(body.start_kind).toBe(standby === "armed" ? "cold" : "standby");
    const { headers } = await fetch(`${body.url}api/status?token=${body.token}`, {
      headers: { origin: "https://changed.example.org" },
    });
    expect(headers.get("access-control-allow-origin")).toBe("https://changed.example.org");
  },
  LIMIT_MS,
);

test(
  "an environment that is read at import makes a cold start",
  async () => {
    await using api = await prepare("idle");
    const settings = mkdtempSync(join(tmpdir(), "lab-settings-"));
    const { body } = await api.start({ env: { JUPYTERLAB_SETTINGS_DIR: settings } });
    expect(body.start_kind).toBe("cold");
    expect(api.log.join("\n")).toContain("JUPYTERLAB_SETTINGS_DIR was read before");
    // The search for language servers has children of its own for a while.
    await until("nobody else", () => api.tree().join() === String(body.pid));
  },
  LIMIT_MS,
);

test(
  "a standby that dies is replaced, and keeps nothing from working",
  async () => {
    await using api = await prepare("idle");
    const [waiting = 0] = api.tree();
    process.kill(waiting, "SIGKILL");
    await until("it is seen", () => api.log.some((line) => line.includes("standby not ready")));
    await api.standby(1);
    const [next = 0] = api.tree();
    process.kill(next, "SIGSTOP");
    process.kill(next, "SIGKILL");
    const { status, body } = await api.start();
    expect([status, body.start_kind]).toEqual([201, "cold"]);
  },
  LIMIT_MS,
);

test(
  "a standby that was stopped is given up, and a cold start takes its place",
  async () => {
    await using api = await prepare("idle", {}, { firstReportMs: 200 });
    const [waiting = 0] = api.tree();
    process.kill(waiting, "SIGSTOP");
    const { status, body } = await api.start();
    expect([status, body.start_kind]).toEqual([201, "cold"]);
    expect(api.log.join("\n")).toContain("it reported nothing within 0.2 s");
    await until("nobody else", () => api.tree().join() === String(body.pid));
  },
  LIMIT_MS,
);

test(
  "armed with a configuration that does not load: one warning, and a start that says why",
  async () => {
    const file = ownConfig();
    appendFileSync(file, "raise ValueError('out of order')\n");
    await using api = await TestServer.start({ PYTHON, STANDBY: "armed", JUPYTER_CONFIG_FILE: file });
    api.prepare();
    const warnings = () => api.log.filter((line) => line.includes("standby not ready"));
    await until("a warning", () => warnings().length > 0);
    expect(warnings()[0]).toContain("out of order");
    const { body } = await api.start();
    expect(body).toMatchObject({ code: "config_error", traceback: expect.stringContaining("out of order") });
    expect(warnings()).toHaveLength(1);
  },
  LIMIT_MS,
);

test(
  "it leaves with the control API, however that ends",
  async () => {
    const folder = mkdtempSync(join(tmpdir(), "jupyter-server-"));
    for (const signal of ["SIGTERM", "SIGKILL"] as const) {
      const env = await makeEnv(folder, { PYTHON, STANDBY: "armed", LOG_LEVEL: "debug" });
      const child = Bun.spawn([process.execPath, join(PROJECT, "index.ts")], {
        cwd: folder,
        env,
        stderr: "ignore",
        stdout: "ignore",
      });
      await until("two of the standby", () => pidsWith(`${folder}/run/connection.json.lab-`).length === 2);
      child.kill(signal);
      await child.exited;
      await until("none of it", () => pidsWith(`${folder}/run/connection.json.lab-`).length === 0);
    }
  },
  LIMIT_MS,
);
