/** A JupyterLab that is armed: a start takes it in a hundredth of the time, and never one that is stale. */
import { afterAll, afterEach, beforeAll, expect, test } from "bun:test";
import { appendFileSync, copyFileSync, statSync } from "node:fs";
import { warmUp } from "../support/config-files.ts";
import { logIn, statusWith } from "../support/cookies.ts";
import { until } from "../support/helpers.ts";
import { CONFIG, checkChangedConfig, ownConfig, prepare, status } from "../support/standby.ts";
import type { TestServer } from "../support/test-server.ts";

const LIMIT_MS = 60_000;

let api: TestServer;
const file = ownConfig();
beforeAll(async () => {
  api = await prepare("armed", { JUPYTER_CONFIG_FILE: file });
}, LIMIT_MS);
afterEach(async () => {
  copyFileSync(CONFIG, file);
  await api.stop();
});
afterAll(() => api[Symbol.asyncDispose]());

test(
  "a restart and a crash are answered by it, with the same token and for the same cookies",
  async () => {
    await warmUp(api);
    const first = (await api.start()).body;
    const cookie = await logIn(first);
    await api.standby(2);
    const second = (await api.ask("POST", "/api/servers/restart")).body;
    expect(second).toMatchObject({ start_kind: "armed", token: first.token, restarts: 0 });
    expect(await statusWith(second, cookie)).toBe(200);
    await api.standby(2);
    process.kill(second.pid, "SIGKILL");
    const third = await api.awaitRestart(second);
    expect(third).toMatchObject({ start_kind: "armed", token: first.token, restarts: 1 });
    expect([await status(third, first.token), await statusWith(third, cookie)]).toEqual([200, 200]);
    // When it became a server, and not when it was armed.
    const ask = async (path: string) => (await fetch(`${third.url}${path}?token=${first.token}`)).text();
    const shown = Date.parse(JSON.parse(await ask("api/status")).started) / 1000;
    const [, published] = /^jupyter_server_started_timestamp_seconds (\S+)$/m.exec(await ask("metrics")) ?? [];
    expect(Number(published)).toBeCloseTo(shown, 2);
  },
  LIMIT_MS,
);

test(
  "a start right after the zygote's death finds another way",
  async () => {
    await warmUp(api);
    process.kill(api.standbyPids()[0] ?? 0, "SIGKILL");
    expect((await api.start()).body).toMatchObject({ state: "running", start_kind: "cold" });
  },
  LIMIT_MS,
);

test(
  "a configuration that has changed since is in force",
  async () => {
    await warmUp(api);
    await checkChangedConfig(api, file);
  },
  LIMIT_MS,
);

test(
  "a configuration that does not load: one warning, and starts that say why",
  async () => {
    await warmUp(api);
    appendFileSync(file, "raise ValueError('out of order')\n");
    const position = api.log.length;
    const warnings = () => api.log.slice(position).filter((line) => line.includes("standby not ready"));
    const failure = { code: "config_error", traceback: expect.stringContaining("out of order") };
    expect((await api.start()).body).toMatchObject(failure);
    await until("a warning", () => warnings().length > 0);
    expect(warnings()[0]).toContain("out of order");
    expect((await api.start()).body).toMatchObject(failure);
    expect(warnings()).toHaveLength(1);
  },
  LIMIT_MS,
);

test(
  "however much is written before a start, little of it is kept, and the end of it is in the start's log",
  async () => {
    appendFileSync(file, "print(('x' * 999 + chr(10)) * 3000)\n");
    await api.start();
    await api.stop();
    await warmUp(api);
    const [log = ""] = new Bun.Glob("run/*/standby.log").scanSync({ cwd: api.folder, absolute: true });
    await until("a file that is small", () => statSync(log).size <= 2 ** 18);
    const position = (await api.readOutput()).length;
    expect((await api.start()).body.start_kind).toBe("armed");
    const lines = (await api.readOutput()).slice(position);
    // Half a line could begin within a secret, which would not be masked.
    expect(lines.find((line) => line.startsWith("x"))).toHaveLength(999);
    expect(lines.join("\n")).toContain("jupyterlab | extension was successfully loaded");
  },
  LIMIT_MS,
);

// At the end: one is armed for other options then.
test(
  "the options of the last start are let go, others are not, and no token is anybody's twice",
  async () => {
    await warmUp(api);
    const first = (await api.start()).body;
    expect(first.start_kind).toBe("armed");
    expect(await status(first, first.token)).toBe(200);
    await api.standby(2);
    await api.stop();
    const others = (await api.start({ "base-url": "/other" })).body;
    expect(others).toMatchObject({ start_kind: "standby", base_url: "/other/" });
    const cookie = await logIn(others);
    await api.standby(2);
    await api.stop();
    await api.standby(2);
    const again = (await api.start({ "base-url": "/other" })).body;
    expect(again).toMatchObject({ start_kind: "armed", base_url: "/other/" });
    expect(new Set([first.token, others.token, again.token]).size).toBe(3);
    expect([await status(again, others.token), await status(again, again.token)]).toEqual([403, 200]);
    expect(await statusWith(again, cookie)).toBe(403);
  },
  LIMIT_MS,
);
