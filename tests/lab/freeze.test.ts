/** A container that is frozen and thawed, as a snapshot or `docker pause` does it, and a clock that is set. */
import { afterEach, expect, test } from "bun:test";
import { mkdtempSync, openSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { freeze } from "../support/freeze.ts";
import { findTree, type Json, PROJECT, PYTHON, runProgram, until } from "../support/helpers.ts";
import { startKernel } from "../support/kernel.ts";
import { TestServer } from "../support/test-server.ts";

const LIMIT_MS = 120_000;
const HOUR_MS = 3_600_000;
const IDLE_TIMEOUT_S = "5";
/** Longer than the idle timeout. It is what is done to the container, and nothing is waited for with it. */
const FREEZE_MS = 10_000;
const CYCLES = 20;
const SHORT_FREEZE_MS = 50;

const readClock = Date.now;
afterEach(() => {
  Date.now = readClock;
});

/** A wall clock for the programs of a test, which can be set; undefined where there is no C compiler. */
function makeClock(folder: string) {
  const [library, file] = [join(folder, "clock.so"), join(folder, "clock")];
  const source = join(PROJECT, "tests", "support", "clock.c");
  const compiler = Bun.which("cc");
  if (!compiler) return void console.warn("NOT RUN: there is no C compiler here, so no clock is set for all processes");
  const { exitCode, stderr } = Bun.spawnSync([compiler, "-O2", "-shared", "-fPIC", "-o", library, source, "-ldl"]);
  if (exitCode !== 0) throw new Error(stderr.toString());
  writeFileSync(file, new BigInt64Array(1));
  // In place: the programs have it mapped, and must not find it empty.
  const descriptor = openSync(file, "r+");
  const set = (hours: number) => writeSync(descriptor, new BigInt64Array([BigInt(hours * 3600)]), 0, 8, 0);
  return { env: { LD_PRELOAD: library, CLOCK_FILE: file }, set };
}

test(
  "whoever is frozen, twenty times for a moment and once for longer than the idle timeout, and whose clock is set meanwhile, goes on as if nothing had happened",
  async () => {
    const folder = mkdtempSync(join(tmpdir(), "jupyter-freeze-"));
    const clock = makeClock(folder);
    const env = { PYTHON, IDLE_TIMEOUT_S, ...clock?.env };
    const { child, log, url, ready, start, show, ended } = await runProgram(folder, env);
    try {
      await ready();
      const server = (await (await start()).json()) as Json;
      using kernel = await startKernel(server);
      expect(await kernel.run("x = 6 * 7")).toBe("");
      const changes: string[] = [];
      kernel.kernel.connectionStatusChanged.connect((_, status) => void changes.push(status));
      const events = (await fetch(`${url}events`)).body?.getReader();
      await events?.read();
      const all = () => [child.pid, ...findTree(folder)];
      expect(all().length).toBeGreaterThan(2);
      for (let cycle = 0; cycle < CYCLES; cycle += 1) {
        const cell = kernel.run("x");
        await freeze(all, SHORT_FREEZE_MS);
        expect(await cell).toBe("42");
      }
      // For all of its processes: the control API, JupyterLab and the kernel.
      for (const hours of clock ? [3, -3, 0] : []) {
        clock?.set(hours);
        const hour = Number(await kernel.run("import time; time.time() / 3600"));
        expect(hour).toBeCloseTo(readClock() / HOUR_MS + hours, 1);
      }
      await freeze(all, FREEZE_MS);
      const idleSeconds = async () => ((await (await fetch(`${url}activity`)).json()) as Json).idle_seconds;
      await until("an idle time without the freeze", async () => (await idleSeconds()) < FREEZE_MS / 1000);
      expect((await show()).body.state).toBe("running");
      // By the tab's own websocket, which has stayed open.
      expect([await kernel.run("x"), changes]).toEqual(["42", []]);
      expect((await show()).body).toMatchObject({ state: "running", pid: server.pid, restarts: 0 });
      expect(log.filter((line) => / warn | error |idle|crashed|stopping/i.test(line))).toEqual([]);
      // Later it is idle by its own time, and the stream that was open all along tells of it.
      let told = "";
      const decoder = new TextDecoder();
      while (!told.includes('"stopped"')) told += decoder.decode((await events?.read())?.value);
      expect(log.some((line) => line.includes("server idle"))).toBe(true);
      await events?.cancel();
      child.kill("SIGTERM");
      expect(await ended()).toBe(0);
    } finally {
      for (const pid of [child.pid, ...findTree(folder)]) {
        try {
          process.kill(pid, "SIGKILL");
        } catch {}
      }
      rmSync(folder, { recursive: true, force: true });
    }
  },
  LIMIT_MS,
);

test.each([3 * HOUR_MS, -3 * HOUR_MS])(
  "a clock that is set by %d ms stops nobody, and the idle timeout still works afterwards",
  async (stepMs) => {
    await using server = await TestServer.start({ IDLE_TIMEOUT_S: "2" });
    await server.start({ env: { FAKE_MODE: "idle" } });
    const idleSeconds = async () => (await server.ask("GET", "/api/servers/activity")).body.idle_seconds;
    await until("a check", async () => (await idleSeconds()) > 0.3);
    Date.now = () => readClock() + stepMs;
    // Counted anew by the next check, or from where it was.
    await until("an idle time without the step", async () => (await idleSeconds()) < 60);
    expect((await server.show()).body.state).toBe("running");
    await until("a stop", async () => (await server.show()).status === 404);
    expect(server.log.some((line) => line.includes("server idle"))).toBe(true);
  },
  LIMIT_MS,
);
