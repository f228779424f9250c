/** Narrow places: few descriptors, a clock that jumps. */
import { expect, setSystemTime, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findTree, type Json, PYTHON, runProgram, until } from "../support/helpers.ts";
import { TestServer } from "../support/test-server.ts";

const LIMIT_MS = 90_000;

test(
  "64 descriptors are enough to start, to be used and to stop",
  async () => {
    const folder = mkdtempSync(join(tmpdir(), "jupyter-server-"));
    const { child, ready, start, ended } = await runProgram(folder, { PYTHON }, ["prlimit", "--nofile=64:64"]);
    await ready();
    const response = await start();
    const server = (await response.json()) as Json;
    expect([response.status, server.message]).toEqual([201, undefined]);
    for (let round = 0; round < 50; round += 1) expect((await fetch(server.lab_url)).status).toBe(200);
    child.kill("SIGTERM");
    expect(await ended()).toBe(0);
    expect(findTree(folder)).toEqual([]);
    rmSync(folder, { recursive: true, force: true });
  },
  LIMIT_MS,
);

test("a clock that jumps changes no deadline and no policy", async () => {
  await using server = await TestServer.start({ FAKE_MODE: "ok" });
  try {
    let { body } = await server.start();
    for (const year of [1999, 2100, 2001]) {
      setSystemTime(new Date(`${year}-01-01T00:00:00Z`));
      process.kill(body.pid, "SIGKILL");
      body = await server.awaitRestart(body);
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
