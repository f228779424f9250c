/** What a start is told of its gateway, with a small program in JupyterLab's place. */
import { describe, expect, test } from "bun:test";
import { type AddressInfo, createServer } from "node:net";
import { expectNothingLeft } from "../support/fake.ts";
import { freePort, until } from "../support/helpers.ts";
import { TestServer } from "../support/test-server.ts";

test("DELETE cancels a start that only waits for its gateway", async () => {
  const silent = createServer().listen(await freePort(), "127.0.0.1");
  try {
    await using server = await TestServer.start();
    const { port } = silent.address() as AddressInfo;
    const start = server.start({ "gateway-url": `http://127.0.0.1:${port}`, "gateway-required": true });
    await until("JupyterLab", () => fetch(`http://127.0.0.1:${server.env.JUPYTER_PORT}/`).catch(() => undefined));
    expect((await server.stop()).status).toBe(200);
    expect((await start).body.code).toBe("start_cancelled");
    await expectNothingLeft(server);
  } finally {
    silent.close();
  }
});

const BASIC = `Basic ${Buffer.from("u:p").toString("base64")}`;

describe("a gateway", () => {
  /** Something that answers every request in one way. */
  async function answerWith(status: number, body: string) {
    const listener = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => new Response(body, { status }) });
    return { url: `http://127.0.0.1:${listener.port}`, [Symbol.asyncDispose]: () => listener.stop(true) };
  }

  test.each([
    [401, "", "gateway_unauthorized"],
    [403, "", "gateway_unauthorized"],
    [200, "<h1>Hello</h1>", "gateway_invalid"],
    [200, "[]", "gateway_invalid"],
    [404, "{}", "gateway_invalid"],
    [302, "{}", "gateway_invalid"],
  ])("that answers %d %s is told, and refused where it is required", async (status, text, code) => {
    await using gateway = await answerWith(status, text);
    await using server = await TestServer.start();
    const { body } = await server.start({ "gateway-url": gateway.url });
    expect(body.gateway).toMatchObject({
      url: gateway.url,
      reachable: true,
      status,
      kernelspecs: null,
      error: expect.any(String),
    });
    await server.stop();
    const refused = await server.start({ "gateway-url": gateway.url, "gateway-required": true });
    expect([refused.status, refused.body.code]).toEqual([502, code]);
    await expectNothingLeft(server);
  });

  test.each([
    ["its token", {}, "token of-the-gateway"],
    ["a user and a password before a token", { JUPYTER_GATEWAY_HTTP_USER: "u", JUPYTER_GATEWAY_HTTP_PWD: "p" }, BASIC],
  ])("that is there is told with its kernels, and is shown what JupyterLab shows: %s", async (_title, env, shown) => {
    const tokens: (string | null)[] = [];
    await using listener = Bun.serve({
      port: 0,
      hostname: "127.0.0.1",
      fetch: (request) => {
        tokens.push(request.headers.get("authorization"));
        return Response.json({ default: "python3", kernelspecs: { python3: {}, ir: {} } });
      },
    });
    const url = `http://127.0.0.1:${listener.port}`;
    await using server = await TestServer.start(
      { JUPYTER_GATEWAY_URL: `${url}/`, GATEWAY_REQUIRED: "true", ...env },
      undefined,
      { gatewayPollMs: 60_000 },
    );
    const { body } = await server.start({ "gateway-auth-token": "of-the-gateway" });
    expect(body.gateway).toEqual({ url, reachable: true, status: 200, kernelspecs: ["ir", "python3"], error: null });
    expect(tokens).toEqual([shown]);
    expect(body.options["gateway-auth-token"]).toBe("***");
  });

  test.each([
    ["refused", async () => `http://127.0.0.1:${await freePort()}`, /connection refused/],
    ["unresolved", async () => "http://gateway.invalid:8888", /does not resolve/],
  ])("%s", async (_title, makeUrl, reason) => {
    await using server = await TestServer.start();
    const url = await makeUrl();
    const { body } = await server.start({ "gateway-url": url });
    expect(body.gateway).toMatchObject({ reachable: false, status: null, error: expect.stringMatching(reason) });
    await server.stop();
    const refused = await server.start({ "gateway-url": url, "gateway-required": true });
    expect([refused.status, refused.body.code]).toEqual([502, "gateway_unreachable"]);
    await expectNothingLeft(server);
  });

  test("that never answers is given up", async () => {
    const listener = createServer(() => {});
    await new Promise<void>((settle) => listener.listen(0, "127.0.0.1", settle));
    await using server = await TestServer.start();
    const address = listener.address();
    const port = typeof address === "object" ? address?.port : 0;
    const { body } = await server.start({ "gateway-url": `http://127.0.0.1:${port}` });
    expect(body.gateway.error).toContain("no answer within 2 s");
    listener.close();
  });
});
