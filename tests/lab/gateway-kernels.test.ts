/** Which kernels are deleted at a gateway when a server ends, by the requests that a stand-in for the gateway gets. */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { randomUUID } from "node:crypto";
import { mkdirSync, readdirSync, rmdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { mode } from "../support/fake.ts";
import { startGatewayStandIn } from "../support/gateway-stand-in.ts";
import { NO_TEMPLATE, PYTHON, until } from "../support/helpers.ts";
import { TestServer } from "../support/test-server.ts";

const LIMIT_MS = 60_000;

/** Records kernels at the stand-in as those of the JupyterLab that runs. */
function record(server: TestServer, gateway: ReturnType<typeof startGatewayStandIn>, ids: string[]): void {
  for (const id of ids) gateway.kernels.add(id);
  writeFileSync(join(findRuntime(server), "gateway-kernels"), ids.map((id) => `${id}\n`).join(""));
}

function findRuntime({ folder }: TestServer): string {
  const run = join(folder, "run");
  return join(run, readdirSync(run).find((name) => name.includes(".lab-")) ?? "");
}

test(
  "the kernels of a server with thousands are deleted, the newest first and some at a time",
  async () => {
    await using gateway = startGatewayStandIn();
    await using server = await TestServer.start({ STOP_TIMEOUT_S: "60" });
    expect((await server.start({ "gateway-url": gateway.url })).status).toBe(201);
    const ids = Array.from({ length: 2000 }, (): string => randomUUID());
    record(server, gateway, ids);
    expect((await server.stop()).status).toBe(200);
    expect(server.log.join("")).not.toContain("kernels left");
    expect(gateway.kernels.size).toBe(0);
    expect(ids.slice(-100)).toContain(gateway.deleted[0] ?? "");
    expect(gateway.seen.mostOpen).toBeLessThan(100);
  },
  LIMIT_MS,
);

test(
  "a gateway that refuses deletions for a moment costs no kernel, and one that it never deletes is told",
  async () => {
    await using gateway = startGatewayStandIn();
    await using server = await TestServer.start({ STOP_TIMEOUT_S: "60" });
    const stop = async () => {
      await server.start({ "gateway-url": gateway.url });
      record(server, gateway, ["first", "second"]);
      expect((await server.stop()).status).toBe(200);
    };
    gateway.faults.deletions = [503, 503, 502];
    await stop();
    expect([...gateway.kernels]).toEqual([]);
    expect(server.log.join("")).not.toContain("kernels left");
    gateway.faults.deletions = Array(10).fill(403);
    await stop();
    expect([...gateway.kernels].sort()).toEqual(["first", "second"]);
    expect(server.log.filter((line) => line.includes("kernels left at the gateway"))).toHaveLength(1);
  },
  LIMIT_MS,
);

test(
  "a kernel that JupyterLab has started at its end is deleted, and one that it was starting then is told",
  async () => {
    await using gateway = startGatewayStandIn();
    await using server = await TestServer.start();
    gateway.kernels.add("late");
    const kernels = { FAKE_KERNELS: "late\nstarting\n" };
    await server.start({ "gateway-url": gateway.url, ...mode("late-kernels", kernels) });
    expect((await server.stop()).status).toBe(200);
    expect([...gateway.kernels]).toEqual([]);
    expect(server.log.filter((line) => line.includes("a kernel may be left at the gateway"))).toHaveLength(1);
  },
  LIMIT_MS,
);

describe("with the real JupyterLab", () => {
  let gateway: ReturnType<typeof startGatewayStandIn>;
  let server: TestServer;
  beforeAll(async () => {
    gateway = startGatewayStandIn();
    server = await TestServer.start({ PYTHON, STANDBY: "on", ...NO_TEMPLATE, STOP_TIMEOUT_S: "60" });
    server.prepare();
  });
  afterAll(async () => {
    await server[Symbol.asyncDispose]();
    await gateway[Symbol.asyncDispose]();
  });

  /** Starts JupyterLab, unless the test before has left one, and gives its pid and functions that ask it for kernels. */
  async function startLab() {
    const { body } = await server.start({ "gateway-url": gateway.url });
    const ask = (method: string, path = "", more: object = {}) =>
      fetch(`http://127.0.0.1:${body.port}/api/kernels${path}`, {
        method,
        headers: { authorization: `token ${body.token}` },
        ...more,
      });
    const startKernel = async () => ((await (await ask("POST", "", { body: "{}" })).json()) as { id: string }).id;
    return { pid: body.pid as number, ask, startKernel };
  }

  test(
    "after a SIGKILL of it a kernel that lives is deleted, one that a client has deleted is not asked for, and one that was being started is told",
    async () => {
      const { pid, ask, startKernel } = await startLab();
      const [gone, living] = [await startKernel(), await startKernel()];
      expect((await ask("DELETE", `/${gone}`)).status).toBe(204);
      const release = gateway.holdStarts();
      const lost = startKernel().catch(() => "lost");
      await until("a third start", () => gateway.seen.starting === 1);
      expect(gateway.deleted).toEqual([gone]);
      process.kill(pid, "SIGKILL");
      await server.awaitRestart({ pid });
      release();
      expect(await lost).toBe("lost");
      expect(gateway.deleted).toEqual([gone, living]);
      expect(server.log.filter((line) => line.includes("a kernel may be left at the gateway"))).toHaveLength(1);
    },
    LIMIT_MS,
  );

  test(
    "a kernel that can't be recorded once it runs is the client's all the same",
    async () => {
      const { ask, startKernel } = await startLab();
      const release = gateway.holdStarts();
      const start = startKernel();
      await until("a start", () => gateway.seen.starting === 1);
      const runtime = findRuntime(server);
      // As a disk that is full: the record's new file can't be written.
      mkdirSync(join(runtime, "gateway-kernels.new"));
      release();
      const id = await start;
      expect([...gateway.kernels]).toContain(id);
      expect((await ask("DELETE", `/${id}`)).status).toBe(204);
      rmdirSync(join(runtime, "gateway-kernels.new"));
    },
    LIMIT_MS,
  );

  test.each([
    ["before", false],
    ["during", true],
  ])(
    "a kernel whose start begins %s the stop of the server is deleted",
    async (_when, isLate) => {
      const { ask, startKernel } = await startLab();
      gateway.kernels.clear();
      const known = await startKernel();
      const releaseDeletions = gateway.holdDeletions();
      const release = gateway.holdStarts();
      const begin = async () => {
        const start = startKernel().catch(() => undefined);
        await until("a start", () => gateway.seen.starting === 1);
        return { start };
      };
      const early = isLate ? undefined : await begin();
      let stopped = false;
      const stop = server.stop().finally(() => {
        stopped = true;
      });
      await until("a deletion", () => gateway.deleted.includes(known));
      const { start } = early ?? (await begin());
      releaseDeletions();
      // The gateway answers late: a stop that does not wait has ended by then.
      for (let probe = 0; probe < 20 && !stopped; probe += 1) await ask("GET").catch(() => {});
      release();
      expect((await stop).status).toBe(200);
      await until("the start's end", () => gateway.seen.starting === 0);
      expect([...gateway.kernels]).toEqual([]);
      await start;
    },
    LIMIT_MS,
  );

  test(
    "a kernel whose start the gateway has not answered is told at once by a stop, and one that it has refused is not",
    async () => {
      for (const [status, count] of [
        [403, 0],
        [503, 1],
      ] as const) {
        const { ask } = await startLab();
        const before = server.log.length;
        gateway.faults.starts = [status];
        expect((await ask("POST", "", { body: "{}" })).status).toBe(status);
        expect((await server.stop()).status).toBe(200);
        const told = server.log.slice(before).filter((line) => line.includes("a kernel may be left at the gateway"));
        expect(told).toHaveLength(count);
      }
    },
    LIMIT_MS,
  );
});
