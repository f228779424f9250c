/** Narrow places: few descriptors, a clock that jumps, a flood of output. */
import { afterEach, beforeEach, expect, setSystemTime, test } from "bun:test";
import { existsSync, mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findTree, type Json, PYTHON, runProgram, TestServer, until } from "../support/helpers.ts";
import { startKernel } from "../support/kernel.ts";

const LIMIT_MS = 90_000;

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "jupyter-server-"));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

/** Starts a server by a program behind `prefix`, lets `use` have it, and sees all of it end. */
async function withServer(prefix: string[], use: (server: Json) => Promise<void>, more: Record<string, string> = {}) {
  const { child, ready, start, ended, env } = await runProgram(folder, { PYTHON, ...more }, prefix);
  await ready();
  const response = await start();
  const server = (await response.json()) as Json;
  expect([response.status, server.message]).toEqual([201, undefined]);
  await use({ ...server, logFile: join(folder, "run", "jupyterlab.log"), env });
  child.kill("SIGTERM");
  expect(await ended()).toBe(0);
  expect(findTree(folder)).toEqual([]);
}

test(
  "64 descriptors are enough to start, to be used and to stop",
  () =>
    withServer(["prlimit", "--nofile=64:64"], async (server) => {
      for (let round = 0; round < 50; round += 1) expect((await fetch(server.lab_url)).status).toBe(200);
    }),
  LIMIT_MS,
);

test("a clock that jumps changes no deadline and no policy", async () => {
  await using server = await TestServer.start({ FAKE_MODE: "ok" });
  try {
    let { body } = await server.start();
    for (const year of [1999, 2100, 2001]) {
      setSystemTime(new Date(`${year}-01-01T00:00:00Z`));
      process.kill(body.pid, "SIGKILL");
      body = await until("a restart", async () => {
        const answer = await server.show();
        return answer.status === 200 && answer.body.pid !== body.pid ? answer.body : undefined;
      });
    }
    expect(body.restarts).toBe(3);
    process.kill(body.pid, "SIGKILL");
    await until("the fourth is too many", async () => (await server.show()).body.state === "failed");
    setSystemTime(new Date("2200-01-01T00:00:00Z"));
    expect((await server.start()).status).toBe(201);
    expect((await server.stop()).status).toBe(200);
  } finally {
    setSystemTime();
  }
});

test(
  "a log that grows by more than its bound stays within it, and the server answers meanwhile",
  () =>
    withServer([], async (server) => {
      using client = await startKernel(server);
      // 100 MB at once are a minute's worth. The kernel's own descriptor 2 is a pipe to another of its threads, which would
      // take the processor as long.
      const log = `open("/proc/%d/fd/2" % os.getppid(), "ab", 0)`;
      await client.run(`import os\nlog = ${log}\nfor _ in range(100_000): log.write(b"x" * 999 + b"\\n")`);
      await until("an answer", async () => (await fetch(`http://127.0.0.1:${server.env.PORT}/health/live`)).ok);
      await until("the bound", () => statSync(server.logFile).size <= 10 * 1024 * 1024 + 64 * 1024);
      // A flood is skipped and leaves no older file; what comes slower is kept in one.
      const older = `${server.logFile}.1`;
      expect(existsSync(older) ? statSync(older).size : 0).toBeLessThan(64 * 1024 * 1024);
      expect(await client.run("2+2")).toBe("4");
    }),
  LIMIT_MS,
);
