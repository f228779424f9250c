/** The proxy: what it hands on over HTTP, and which paths are whose. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { exchange, keepOpen } from "../../http/exchange.ts";
import { FAKE, type Json, until } from "../support/helpers.ts";
import { TestServer } from "../support/test-server.ts";
import { Client, IS_DENO, LIMIT_MS, seen, startProxiedLab, startProxy, UPSTREAM, visit } from "./proxied.ts";

const MB = 1024 * 1024;

describe("HTTP through the proxy", () => {
  let api: TestServer;
  beforeAll(async () => {
    api = await startProxiedLab();
  }, LIMIT_MS);
  afterAll(() => api[Symbol.asyncDispose]());

  test("JupyterLab sees the host, the client's address and no header that was for the proxy", async () => {
    const headers = {
      connection: "x-mine",
      "x-mine": "1",
      te: "trailers",
      "x-forwarded-for": "192.0.2.1",
      "x-other": "2",
    };
    const got: Json = await (await fetch(`${api.url}/headers?a=%20b`, { headers })).json();
    expect(got).toMatchObject({ host: `127.0.0.1:${api.env.PORT}`, "x-other": "2", "x-forwarded-proto": "http" });
    expect(got["x-forwarded-host"]).toBe(got.host);
    expect(got["x-forwarded-for"]).toMatch(/^192\.0\.2\.1, (::ffff:)?127\.0\.0\.1$/);
    expect(got[""]).toEndWith("/headers?a=%20b");
    expect(Object.keys(got)).not.toContain("x-mine");
    expect(Object.keys(got)).not.toContain("te");
    const kept = { "x-forwarded-proto": "https", "x-forwarded-host": "hub.org" };
    expect(await (await fetch(`${api.url}/headers`, { headers: kept })).json()).toMatchObject(kept);
  });

  test("status, cookies, redirects and compression come back as they were", async () => {
    const set = await fetch(`${api.url}/set`);
    expect([set.status, await set.text(), set.headers.getSetCookie()]).toEqual([
      201,
      "set",
      ["a=1; Path=/", "b=2; Path=/"],
    ]);
    expect([set.headers.get("x-public"), set.headers.get("x-private")]).toEqual(["1", null]);
    const redirected = await fetch(`${api.url}/redirect`, { redirect: "manual" });
    expect([redirected.status, redirected.headers.get("location")]).toEqual([302, "/elsewhere?a=b"]);
    // Deno's client can't leave an answer compressed.
    const zipped = await fetch(`${api.url}/gzip`, { decompress: IS_DENO });
    const bytes = new Uint8Array(await zipped.arrayBuffer());
    expect(Buffer.from(IS_DENO ? bytes : Bun.gunzipSync(bytes)).toString()).toBe("a".repeat(10_000));
    for (const code of [204, 304, 404, 500, 599])
      expect((await fetch(`${api.url}/status?code=${code}`)).status).toBe(code);
    for (const method of ["HEAD", "GET"]) {
      const file = await fetch(`${api.url}/file`, { method });
      expect([file.status, file.headers.get("content-length")]).toEqual([200, "10"]);
    }
  });

  test("bodies above the control API's own limit pass, and its own limit stays", async () => {
    const body = Buffer.alloc(40 * MB, "x");
    const sent = await fetch(`${api.url}/size`, { method: "PUT", body });
    expect(await sent.json()).toEqual({ size: body.length, declared: String(body.length) });
    expect((await api.start(JSON.stringify({ token: "x".repeat(70_000) }))).status).toBe(413);
    expect((await fetch(`${api.url}/size`, { method: "POST" })).status).toBe(200);
  });

  test("an answer is handed on while it is made", async () => {
    const reader = (await fetch(`${api.url}/stream`)).body?.getReader();
    const next = async () => new TextDecoder().decode((await reader?.read())?.value);
    expect(await next()).toBe("one");
    await fetch(`${api.url}/go`);
    expect(await next()).toBe("two");
  });

  test("a client that goes is told upstream", async () => {
    const before = (await seen(api)).aborted;
    const leave = new AbortController();
    const response = await fetch(`${api.url}/stream`, { signal: leave.signal });
    await response.body?.getReader().read();
    leave.abort();
    await until("the end upstream", async () => (await seen(api)).aborted === before + 1);
  });

  test.each(["/api/servers", "/api/servers/", "/health/live", "/metrics", "/docs", "/"])(
    "%s stays ours",
    async (path) => {
      expect((await api.ask("GET", path)).text).not.toContain('"path"');
    },
  );

  test.each(["/api/server", "/api/serversx", "/pages/x", "/lab/../healthy", "/docsx", "//metrics", "/%61pi/servers/"])(
    "%s is JupyterLab's",
    async (path) => {
      const text = await rawGet(api, path);
      expect(text).toContain('{"path":');
    },
  );

  test("dots in a path are resolved before anything is decided", async () => {
    expect(await rawGet(api, "/lab/../api/servers/")).toContain('"state":"running"');
  });
});

describe("a transfer", () => {
  const look = async (api: TestServer) => (await api.ask("GET", "/api/servers/activity")).body;
  const isIdle = async (api: TestServer) => !(await look(api)).busy;
  /** An answer of which the first bytes have come. */
  const open = async (api: TestServer, path: string) => {
    const reader = (await fetch(`${api.url}${path}`)).body?.getReader();
    await reader?.read();
    return reader;
  };

  test(
    "is work while it moves, in both directions, and an event stream is none",
    async () => {
      await using api = await startProxiedLab();
      expect(await look(api)).toMatchObject({ busy: false, unknown: null });
      const events = await open(api, "/stream?type=text/event-stream");
      expect(await isIdle(api)).toBe(true);
      const download = await open(api, "/stream");
      expect(await look(api)).toMatchObject({ busy: true, idle_seconds: 0 });
      const refused = await api.ask("DELETE", "/api/servers/?if-idle=true");
      expect([refused.status, refused.body.code]).toEqual([409, "busy"]);
      expect(refused.body.message).toBe("The server was not stopped: an upload or download is in progress");
      await fetch(`${api.url}/go`);
      while (!(await download?.read())?.done);
      expect(await isIdle(api)).toBe(true);

      const left = await open(api, "/stream");
      expect(await isIdle(api)).toBe(false);
      await Promise.all([left?.cancel(), events?.cancel()]);
      await until("the end of one that its client has left", () => isIdle(api));

      // Deno hands uploads on unseen.
      if (IS_DENO) return;
      const body = new TransformStream<Uint8Array, Uint8Array>();
      const writer = body.writable.getWriter();
      const upload = fetch(`${api.url}/size`, { method: "PUT", body: body.readable });
      await writer.write(Buffer.from("one"));
      await until("an upload", async () => !(await isIdle(api)));
      await writer.close();
      expect(((await (await upload).json()) as Json).size).toBe(3);
      expect(await isIdle(api)).toBe(true);
      expect((await api.ask("DELETE", "/api/servers/?if-idle=true")).status).toBe(200);
    },
    LIMIT_MS,
  );

  // Its pause can't be set for the program that runs under Deno.
  test.skipIf(IS_DENO)(
    "that stands still does not keep IDLE_TIMEOUT_S from its work",
    async () => {
      const env = { PROXY: "true", PYTHON: UPSTREAM, IDLE_TIMEOUT_S: "1" };
      await using api = await TestServer.start(env, undefined, { bodyIdleS: 1 });
      await api.start({ token: "t" });
      await open(api, "/stream");
      await until("a stop", async () => (await api.show()).status === 404);
    },
    LIMIT_MS,
  );
});

describe("an answer of known length", () => {
  const LONG_BYTES = 100_000;
  let address: string;
  let halves: Socket;
  const server = createServer((socket) => {
    socket.once("data", (request) => {
      const length = /^GET .long/.test(request.toString()) ? LONG_BYTES : 10;
      socket.write(`HTTP/1.1 200 OK\r\nContent-Length: ${length}\r\n\r\n${"x".repeat(length / 2)}`);
      if (length === 10) socket.end();
      halves = socket;
    });
  });
  beforeAll(async () => {
    await new Promise<void>((settle) => server.listen(0, "127.0.0.1", settle));
    address = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  });
  afterAll(() => void server.close());
  const ask = (path: string) => exchange(new Request(`${address}${path}`), `${address}${path}`, new Headers());

  test("has no limit while JupyterLab pauses in it, and one at its end", async () => {
    const limits: (number | undefined)[] = [];
    const answer = keepOpen(await ask("/long"), (seconds) => void limits.push(seconds));
    const text = answer.text();
    await until("the answer is read", () => limits.length > 0);
    expect(limits.at(-1)).toBe(0);
    halves.end("x".repeat(LONG_BYTES / 2));
    expect(await text).toBe("x".repeat(LONG_BYTES));
    expect(limits.at(-1)).not.toBe(0);
  });

  test("is an error, and not cut, where JupyterLab breaks off in a short one", async () => {
    expect(await ask("/short").catch((error) => error)).toMatchObject({ code: "jupyterlab_unreachable" });
  });
});

/** The answer to a request whose path no client has changed. */
function rawGet(api: TestServer, path: string): Promise<string> {
  return new Promise((settle) => {
    const socket = connect(Number(api.env.PORT), "127.0.0.1");
    let text = "";
    socket.on("data", (chunk) => {
      text += chunk;
    });
    socket.on("close", () => settle(text));
    socket.write(`GET ${path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n`);
  });
}

describe("a path in front of all others", () => {
  test(
    "may be kept or taken away on the way here",
    async () => {
      await using api = await startProxy({ PUBLIC_URL: "http://127.0.0.1/u/ann" });
      const { body } = await api.start({ token: "t", "base-url": "/jupyter" });
      expect(body).toMatchObject({
        base_url: "/u/ann/jupyter/",
        url: "http://127.0.0.1/u/ann/jupyter/",
        lab_url: "http://127.0.0.1/u/ann/jupyter/lab?token=t",
      });
      for (const path of ["/u/ann/jupyter/headers", "/jupyter/headers"]) {
        const got: Json = await (await fetch(`${api.url}${path}?q`)).json();
        expect(got[""]).toEndWith("/u/ann/jupyter/headers?q");
        const client = new Client(api, path.replace("headers", "ws/echo"));
        expect(await client.opened).toBe(true);
        client.socket.close();
      }
      for (const path of ["/u/ann/api/servers/", "/api/servers/"])
        expect((await api.ask("GET", path)).status).toBe(200);
      expect((await api.ask("GET", "/u/ann/")).text).toContain("<!doctype html>");
      const bare = await visit(api, "/u/ann?x=1");
      expect([bare.status, bare.headers.get("location")]).toEqual([308, "/u/ann/?x=1"]);
      expect((await api.start({ "base-url": "/docs" })).status).toBe(422);
    },
    LIMIT_MS,
  );

  test(
    "is unknown to a control API without PROXY",
    async () => {
      await using api = await TestServer.start({ PYTHON: FAKE, PUBLIC_URL: "http://127.0.0.1/u/ann" });
      const { body } = await api.start();
      expect(body).toMatchObject({ base_url: "/", url: "http://127.0.0.1/u/ann/" });
      expect((await api.ask("GET", "/lab")).status).toBe(404);
    },
    LIMIT_MS,
  );

  test(
    "url names the address of the request, and https where that ends before us",
    async () => {
      await using api = await startProxy();
      expect((await api.start({ token: "t" })).body.lab_url).toBe(`${api.url}/lab?token=t`);
      const shown = await api.ask("GET", "/api/servers/", undefined, { "x-forwarded-proto": "https" });
      expect(shown.body.url).toBe(`${api.url.replace("http", "https")}/`);
    },
    LIMIT_MS,
  );
});
