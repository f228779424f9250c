/** Kernels at a real gateway: they run there, and nothing of them is left there. */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import services from "@jupyterlab/services";
import { installKernelGateway, TestGateway } from "../support/gateway.ts";
import { type Json, PROJECT, PYTHON, read, until } from "../support/helpers.ts";
import { startKernel } from "../support/kernel.ts";
import { killOne, runNext } from "../support/killed.ts";
import { TestServer } from "../support/test-server.ts";

const LIMIT_MS = 60_000;

/** The options of the tests that share one JupyterLab: each one starts it, if none before has. */
const HARMLESS = { env: { HARMLESS: "but-nobody's-business" } };

/** A start with its kernels at `gateway`. */
const at = (gateway: TestGateway, more: object = {}) => ({
  "gateway-url": gateway.url,
  "gateway-auth-token": gateway.token,
  ...more,
});
/** The same over https, with these variables. */
const securelyAt = (gateway: TestGateway, env: Record<string, string> = {}) =>
  at(gateway, { "gateway-url": gateway.secureUrl, "gateway-required": true, env });

const USABLE = { reachable: true, status: 200, kernelspecs: ["python3", "spawned"], error: null };

/** Checks that a new kernel answers the first cell of a client, and the first after a restart. Gives the kernel's id. */
async function checkFirstCells(server: Json, name: string, readLog: () => Promise<string[]>): Promise<string> {
  using client = await startKernel(server, { name });
  expect(await client.run("6*7")).toBe("42");
  // A client whose protocol is refused connects twice.
  const connections = (await readLog()).filter((line) => line.includes(`Connecting to kernel ${client.kernel.id}`));
  expect(connections).toHaveLength(1);
  await client.kernel.restart();
  expect(await client.run("'after the restart'")).toBe("'after the restart'");
  return client.kernel.id;
}

const SHIPPED_CONFIG = readFileSync(join(PROJECT, "jupyter_notebook_config.py"), "utf8");
const kernelGateway = installKernelGateway();

describe("a gateway", () => {
  let gateway: TestGateway;
  let api: TestServer;
  let config: string;
  beforeAll(async () => {
    config = join(mkdtempSync(join(tmpdir(), "jupyter-config-")), "jupyter_notebook_config.py");
    writeFileSync(config, SHIPPED_CONFIG);
    const env = { PYTHON, STANDBY: "on", JUPYTER_CONFIG_FILE: config, STOP_TIMEOUT_S: "4" };
    [gateway, api] = await Promise.all([TestGateway.start("/Team-A/http/"), TestServer.start(env)]);
    api.prepare();
  }, LIMIT_MS);
  afterAll(async () => {
    await api[Symbol.asyncDispose]();
    await gateway[Symbol.asyncDispose]();
  });

  /** Kills JupyterLab, and waits until it has been restarted. */
  async function killLab(server: Json): Promise<void> {
    process.kill(server.pid, "SIGKILL");
    expect((await api.awaitRestart(server)).restarts).toBe(1);
  }

  test.each([
    ["with the shipped configuration file", SHIPPED_CONFIG, ["python3", "spawned"]],
    ["with a configuration file of the user's own", "", ["python3"]],
  ])(
    "under a path with capital letters answers the first cell of a client, and the first after a restart of the kernel, and has no kernel after a DELETE: %s",
    async (_title, text, names) => {
      writeFileSync(config, text);
      const { body } = await api.start(at(gateway));
      expect(body.gateway).toMatchObject(USABLE);
      const ids = [];
      for (const name of names) ids.push(await checkFirstCells(body, name, () => api.readOutput()));
      expect((await gateway.kernels()).sort()).toEqual(ids.sort());
      expect((await api.stop()).status).toBe(200);
      expect(await gateway.kernels()).toEqual([]);
    },
    LIMIT_MS,
  );

  test(
    "never has JupyterLab's environment in the log",
    async () => {
      const { body } = await api.start(at(gateway, HARMLESS));
      using client = await startKernel(body);
      await client.run("1");
      const log = (await api.readOutput()).join("\n");
      expect(log).toContain(`GatewayKernelManager started kernel: ${client.kernel.id}`);
      expect(log).not.toContain("nobody's-business");
      expect(log).not.toContain(gateway.token);
    },
    LIMIT_MS,
  );

  test(
    "passes buffers on, both ways",
    async () => {
      const { body } = await api.start(at(gateway, HARMLESS));
      using client = await startKernel(body);
      client.kernel.handleComms = true;
      // A subshell for each target is asked for in the background, and a slow kernel answers after the end of this test.
      client.kernel.commsOverSubshells = services.CommsOverSubshells.Disabled;
      const echoed = new Promise<number[]>((settle) => {
        client.kernel.registerCommTarget("unused", () => {});
        const comm = client.kernel.createComm("echo");
        comm.onMsg = ({ buffers = [] }) => {
          const [first] = buffers as ArrayBufferView[];
          settle(first ? [...new Uint8Array(first.buffer, first.byteOffset, first.byteLength)] : []);
        };
        void client
          .run(
            "get_ipython().kernel.comm_manager.register_target('echo', " +
              "lambda comm, _: comm.on_msg(lambda m: comm.send({}, buffers=[bytes(m['buffers'][0])[::-1]])))",
          )
          .then(() => comm.open())
          .then(() => comm.send({}, {}, [new Uint8Array([0, 128, 255, 7])]));
      });
      expect(await echoed).toEqual([7, 255, 128, 0]);
    },
    LIMIT_MS,
  );

  test(
    "has no kernel after JupyterLab was killed and restarted",
    async () => {
      const { body } = await api.start(at(gateway, HARMLESS));
      using client = await startKernel(body);
      expect(await client.run("1+1")).toBe("2");
      await killLab(body);
      expect(await gateway.kernels()).toEqual([]);
    },
    LIMIT_MS,
  );

  test(
    "that goes away is told, a stop keeps its deadline, and one that is back is told too",
    async () => {
      try {
        const { body } = await api.start(at(gateway, HARMLESS));
        using client = await startKernel(body);
        await client.run("1+1");
        const reachable = async (): Promise<Json> => (await api.show()).body.gateway.reachable;
        gateway.signal("SIGSTOP");
        await until("the gateway is missed", async () => (await reachable()) === false);
        gateway.signal("SIGCONT");
        await until("the gateway is back", reachable);
        gateway.signal("SIGSTOP");
        const startedAt = performance.now();
        expect((await api.stop()).status).toBe(200);
        expect(performance.now() - startedAt).toBeLessThan(4000);
        expect(api.log.join("")).toContain(`kernels left at the gateway url=${gateway.url}`.replace(/\/$/, ""));
      } finally {
        await gateway.reset();
      }
    },
    LIMIT_MS,
  );

  test("that redirects gets JupyterLab's requests, and no other address gets them and their credentials", async () => {
    const followed: string[] = [];
    using elsewhere = Bun.serve({
      port: 0,
      fetch: ({ method, url }) => {
        followed.push(`${method} ${url}`);
        return Response.json({ default: "python3", kernelspecs: {} });
      },
    });
    const asked: string[] = [];
    using redirecting = Bun.serve({
      port: 0,
      hostname: "127.0.0.1",
      fetch: ({ method, url, headers }) => {
        const { pathname } = new URL(url);
        asked.push(`${method} ${pathname} ${headers.get("x-key")} ${headers.get("x-tenant")}`);
        return Response.redirect(`http://localhost:${elsewhere.port}${pathname}`, 307);
      },
    });
    const { body } = await api.start({
      "gateway-url": `http://127.0.0.1:${redirecting.port}`,
      "gateway-auth-token": "of-the-gateway",
      env: { JUPYTER_GATEWAY_AUTH_HEADER_KEY: "X-Key", JUPYTER_GATEWAY_HEADERS: '{"X-Tenant": "secret-tenant"}' },
    });
    const askLab = async (method: string, path: string, text?: string) => {
      const headers = { authorization: `token ${body.token}` };
      const options = { method, headers, redirect: "manual", ...(text ? { body: text } : {}) } as const;
      return await fetch(`http://127.0.0.1:${body.port}${path}`, options);
    };
    const answers = [
      await askLab("GET", "/api/kernelspecs/python3"),
      await askLab("POST", "/api/kernels", '{"name": "python3"}'),
    ];
    expect(followed).toEqual([]);
    expect(answers.map(({ ok }) => ok)).toEqual([false, false]);
    for (const what of ["GET /api/kernelspecs/python3", "POST /api/kernels"])
      expect(asked).toContain(`${what} token of-the-gateway secret-tenant`);
    await api.stop();
  }, 60_000);

  test("with a wrong token is told, and refused where it is required", async () => {
    const wrong = at(gateway, { "gateway-auth-token": "wrong" });
    const { body } = await api.start(wrong);
    expect(body.gateway).toMatchObject({ reachable: true, status: 403, kernelspecs: null });
    await api.stop();
    const refused = await api.start({ ...wrong, "gateway-required": true });
    expect([refused.status, refused.body.code]).toEqual([502, "gateway_unauthorized"]);
  }, 60_000);

  test(
    "of the control API's environment answers the same cells in safe mode too, over https, and has no kernel where JupyterLab has gone with the control API",
    async () => {
      const folder = mkdtempSync(join(tmpdir(), "jupyter-server-"));
      const readLog = async () => read(join(folder, "run", "jupyterlab.log")).split("\n");
      const variables = {
        GATEWAY_REQUIRED: "true",
        JUPYTER_GATEWAY_URL: gateway.secureUrl,
        JUPYTER_GATEWAY_AUTH_TOKEN: gateway.token,
        JUPYTER_GATEWAY_CA_CERTS: gateway.certificate,
      };
      const { server, env } = await killOne(folder, { "safe-mode": true }, { PYTHON, ...variables });
      expect(server.gateway).toMatchObject(USABLE);
      try {
        await checkFirstCells(server, "python3", readLog);
      } finally {
        process.kill(server.pid, "SIGKILL");
      }
      await using next = await runNext(folder, env);
      await next.settled();
      expect(await gateway.kernels()).toEqual([]);
    },
    LIMIT_MS,
  );

  test.each([
    ["is entered with JUPYTER_GATEWAY_CA_CERTS alone", "JUPYTER_GATEWAY_CA_CERTS", () => gateway.certificate],
    ["is entered unchecked with any spelling of false", "JUPYTER_GATEWAY_VALIDATE_CERT", () => "False"],
  ])(
    "with a certificate of a private authority %s",
    async (_title, name, value) => {
      const { body } = await api.start(securelyAt(gateway, { [name]: value() }));
      expect(body.gateway).toMatchObject(USABLE);
      using client = await startKernel(body);
      expect(await client.run("1+1")).toBe("2");
      await api.stop();
      expect(await gateway.kernels()).toEqual([]);
    },
    LIMIT_MS,
  );

  test(
    "with a certificate of a private authority is not entered without it, and a file that is missing is named",
    async () => {
      const refused = await api.start(securelyAt(gateway));
      expect([refused.status, refused.body.code]).toEqual([502, "gateway_unreachable"]);
      expect(refused.body.message).toMatch(/certificate/i);
      const missing = await api.start(securelyAt(gateway, { JUPYTER_GATEWAY_CA_CERTS: "/nowhere.pem" }));
      expect(missing.body.message).toContain("/nowhere.pem");
    },
    LIMIT_MS,
  );

  test.skipIf(!kernelGateway)(
    "of the kind Jupyter Kernel Gateway runs the kernels too, and has none after a SIGKILL or a DELETE",
    async () => {
      await using gateway = await TestGateway.startKernelGateway(kernelGateway ?? "");
      const { body } = await api.start(at(gateway));
      for (const end of [() => killLab(body), () => api.stop()]) {
        using client = await startKernel(body);
        expect(await client.run("1+1")).toBe("2");
        await end();
        expect(await gateway.kernels()).toEqual([]);
      }
    },
    LIMIT_MS,
  );
});
