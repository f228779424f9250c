/** Which kernels are deleted at a gateway when a server ends, by the requests that a stand-in for the gateway gets. */

import { expect, test } from "bun:test";
import { randomUUID } from "node:crypto";
import { readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { startGatewayStandIn } from "../support/gateway-stand-in.ts";
import { PYTHON, TestServer } from "../support/helpers.ts";

const LIMIT_MS = 60_000;

test(
  "the kernels of a server with thousands are deleted, the newest first and some at a time",
  async () => {
    await using gateway = startGatewayStandIn();
    await using server = await TestServer.start({ STOP_TIMEOUT_S: "60" });
    expect((await server.start({ "gateway-url": gateway.url })).status).toBe(201);
    const ids = Array.from({ length: 2000 }, (): string => randomUUID());
    for (const id of ids) gateway.kernels.add(id);
    const run = join(server.folder, "run");
    const runtime = readdirSync(run).find((name) => name.includes(".lab-")) ?? "";
    writeFileSync(join(run, runtime, "gateway-kernels"), ids.map((id) => `${id}\n`).join(""));
    expect((await server.stop()).status).toBe(200);
    expect(server.log.join("")).not.toContain("kernels left");
    expect(gateway.kernels.size).toBe(0);
    expect(ids.slice(-100)).toContain(gateway.deleted[0] ?? "");
    expect(gateway.seen.mostOpen).toBeLessThan(100);
  },
  LIMIT_MS,
);

test(
  "a kernel that a client has deleted is not asked for when JupyterLab is killed, and one that lives is deleted",
  async () => {
    await using gateway = startGatewayStandIn();
    await using server = await TestServer.start({ PYTHON });
    const { body } = await server.start({ "gateway-url": gateway.url });
    const askLab = (method: string, path: string) =>
      fetch(`http://127.0.0.1:${body.port}/api/kernels${path}`, {
        method,
        headers: { authorization: `token ${body.token}` },
        ...(method === "POST" ? { body: "{}" } : {}),
      });
    const startKernel = async (): Promise<string> => ((await (await askLab("POST", "")).json()) as { id: string }).id;
    const [gone, living] = [await startKernel(), await startKernel()];
    expect((await askLab("DELETE", `/${gone}`)).status).toBe(204);
    expect(gateway.deleted).toEqual([gone]);
    process.kill(body.pid, "SIGKILL");
    await server.awaitRestart(body);
    expect(gateway.deleted).toEqual([gone, living]);
    expect(gateway.kernels.size).toBe(0);
  },
  LIMIT_MS,
);
