/** The proxy: what it hands on in both directions, who is let in, and what starts a stopped JupyterLab. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { FAKE, type Json, TestServer, until } from "../helpers.ts";
import { installUpstream } from "../upstream.ts";

const LIMIT_MS = 120_000;
const MB = 1024 * 1024;
const IS_DENO = process.env.RUNTIME === "deno";
const FOLDER = mkdtempSync(join(tmpdir(), "upstream-"));
const UPSTREAM = installUpstream(FOLDER);
afterAll(() => rmSync(FOLDER, { recursive: true }));

const startProxy = (more: Record<string, string> = {}) =>
  TestServer.start({ PROXY: "true", PYTHON: UPSTREAM, ...more });
const HTML = { accept: "text/html,*/*" };
/** A person opens a page. Redirects are shown, not followed. */
const visit = (api: TestServer, path: string, headers: Record<string, string> = {}) =>
  fetch(`${api.url}${path}`, { headers: { ...HTML, ...headers }, redirect: "manual" });
const seen = async (api: TestServer, prefix = ""): Promise<Json> => (await fetch(`${api.url}${prefix}/seen`)).json();
const stateOf = async (api: TestServer) => (await api.show()).body.state;
const countStarts = async (api: TestServer) =>
  Number(/starts_total\{.*result="success"\} (\d+)/.exec((await api.ask("GET", "/metrics")).text)?.[1] ?? 0);

/** A browser's end of a websocket, and all that it is told. */
class Client {
  readonly socket: WebSocket;
  readonly messages: (string | ArrayBuffer)[] = [];
  readonly pings: string[] = [];
  readonly opened: Promise<boolean>;
  readonly closed: Promise<{ code: number; reason: string }>;

  constructor(api: TestServer, path: string, options: object = {}) {
    this.socket = new WebSocket(`${api.url.replace("http", "ws")}${path}`, options as string[]);
    this.socket.binaryType = "arraybuffer";
    this.socket.onmessage = ({ data }) => void this.messages.push(data);
    this.socket.addEventListener("ping" as "message", ({ data }) => void this.pings.push(Buffer.from(data).toString()));
    this.opened = new Promise((settle) => {
      this.socket.onopen = () => settle(true);
      this.socket.onerror = () => settle(false);
    });
    this.closed = new Promise((settle) => {
      this.socket.onclose = ({ code, reason }) => settle({ code, reason });
    });
  }
}

describe("HTTP through the proxy", () => {
  let api: TestServer;
  beforeAll(async () => {
    api = await startProxy();
    await api.start({ token: "t" });
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
    const head = await fetch(`${api.url}/file`, { method: "HEAD" });
    expect([head.status, head.headers.get("content-length")]).toEqual([200, "10"]);
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

describe("websockets through the proxy", () => {
  let api: TestServer;
  beforeAll(async () => {
    api = await startProxy();
    await api.start({ token: "t" });
  }, LIMIT_MS);
  afterAll(() => api[Symbol.asyncDispose]());

  test("messages pass in order, text and bytes, large and empty", async () => {
    const client = new Client(api, "/ws/echo");
    await client.opened;
    const sent = ["", "é", "x".repeat(300_000), new Uint8Array([0, 255]).buffer, new Uint8Array(2 * MB).buffer];
    for (const message of sent) client.socket.send(message);
    await until("the echoes", () => client.messages.length === sent.length);
    const shown = (message: string | ArrayBuffer) =>
      typeof message === "string" ? message : Buffer.from(message).toString("hex");
    expect(client.messages.map(shown)).toEqual(sent.map(shown));
    client.socket.close();
    await client.closed;
  });

  test.each([
    [["v1", "v2"], "v2"],
    [["v1"], "v1"],
    [["v1", "v2"], ""],
    [[], ""],
  ])("of %j JupyterLab's choice %j reaches the browser", async (protocols, chosen) => {
    // A browser that has offered some closes a connection that takes none; a bare handshake shows what came.
    const text = await handshake(api, `/ws/echo?protocol=${chosen}`, protocols);
    expect(text).toStartWith("HTTP/1.1 101");
    expect(/^sec-websocket-protocol: (.*?)\r$/im.exec(text)?.[1] ?? "").toBe(chosen);
  });

  test.each([403, 404])("a refusal with %i is one for the browser", async (code) => {
    expect(await handshake(api, `/ws/refuse?code=${code}`, [])).toStartWith(`HTTP/1.1 ${code}`);
  });

  test.each(IS_DENO ? [1000, 3000, 4999] : [1000, 1001, 1011, 3000, 4999])(
    "close code %i goes both ways",
    async (code) => {
      const closing = new Client(api, `/ws/close?code=${code}`);
      expect(await closing.closed).toEqual({ code, reason: "as asked" });
      if (code !== 1000 && code < 3000) return;
      const before = (await seen(api))[`closed ${code}`] ?? 0;
      const client = new Client(api, "/ws/echo");
      await client.opened;
      client.socket.close(code, "mine");
      await until("the close upstream", async () => (await seen(api))[`closed ${code}`] > before);
    },
  );

  test.each(["kill", "talk-and-kill"])("JupyterLab's end without a close ends the browser's (%s)", async (way) => {
    const client = new Client(api, `/ws/${way}`);
    expect([1005, 1006]).toContain((await client.closed).code);
    const second = new Client(api, "/ws/kill-on-message");
    await second.opened;
    second.socket.send("now");
    expect([1005, 1006]).toContain((await second.closed).code);
  });

  test("a browser that goes, at any time, leaves nothing open", async () => {
    const { open } = await seen(api);
    for (let round = 0; round < 20; round += 1) {
      const client = new Client(api, "/ws/echo");
      if (round % 3 === 0) await client.opened;
      (client.socket as unknown as { terminate(): void }).terminate();
      const socket = connect(Number(api.env.PORT), "127.0.0.1");
      socket.write(requestOf("/ws/echo", []));
      if (round % 2 === 0) await new Promise((settle) => socket.once("data", settle));
      socket.resetAndDestroy();
    }
    await until("no open end upstream", async () => (await seen(api)).open === open);
    await until("none here", async () => /proxy_websockets 0$/m.test((await api.ask("GET", "/metrics")).text));
  });

  test.skipIf(IS_DENO)("JupyterLab's pings reach the browser", async () => {
    const client = new Client(api, "/ws/ping");
    await client.opened;
    client.socket.send("ping me");
    await until("a ping", () => client.pings.includes("are you there"));
    client.socket.close();
  });

  test.skipIf(IS_DENO)(
    "a browser that takes nothing costs no memory and loses no message",
    async () => {
      const count = 800;
      const before = process.memoryUsage().rss;
      const socket = connect(Number(api.env.PORT), "127.0.0.1");
      socket.write(requestOf(`/ws/blast?count=${count}`, []));
      await new Promise((settle) => socket.once("data", settle));
      socket.pause();
      let peak = 0;
      let calm = 0;
      // Calm means that nothing more arrives in this process.
      await until("calm", async () => {
        const now = process.memoryUsage().rss;
        calm = now > peak ? 0 : calm + 1;
        peak = Math.max(peak, now);
        return calm > 50;
      });
      expect((peak - before) / MB).toBeLessThan(64);
      const numbers = await readFrames(socket, count);
      expect(numbers).toEqual(Array.from({ length: count }, (_, index) => index));
    },
    LIMIT_MS,
  );
});

function requestOf(path: string, protocols: string[]): string {
  const offered = protocols.length > 0 ? `Sec-WebSocket-Protocol: ${protocols.join(", ")}\r\n` : "";
  return `GET ${path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n${offered}\r\n`;
}

/** The head of the answer to a websocket's handshake. */
function handshake(api: TestServer, path: string, protocols: string[]): Promise<string> {
  return new Promise((settle) => {
    const socket = connect(Number(api.env.PORT), "127.0.0.1");
    let text = "";
    socket.on("data", (chunk) => {
      text += chunk.toString("latin1");
      if (!text.includes("\r\n\r\n")) return;
      socket.destroy();
      settle(text);
    });
    socket.write(requestOf(path, protocols));
  });
}

/** The numbers that binary frames from the server begin with. */
function readFrames(socket: ReturnType<typeof connect>, count: number): Promise<number[]> {
  const numbers: number[] = [];
  let rest: Buffer = Buffer.alloc(0);
  return new Promise((settle) => {
    socket.on("data", (chunk: Buffer) => {
      rest = Buffer.concat([rest, chunk]);
      for (;;) {
        const small = (rest[1] ?? 0) & 127;
        const head = small === 127 ? 10 : small === 126 ? 4 : 2;
        if (rest.length < head) return;
        const length = small === 127 ? Number(rest.readBigUInt64BE(2)) : small === 126 ? rest.readUInt16BE(2) : small;
        if (rest.length < head + length) return;
        if (((rest[0] ?? 0) & 15) === 2) numbers.push(rest.readUInt32BE(head));
        rest = rest.subarray(head + length);
        if (numbers.length === count) settle(numbers);
      }
    });
    socket.resume();
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

describe("who is let in", () => {
  test(
    "without an API token: whoever opens a page by a known name, once",
    async () => {
      await using api = await startProxy();
      await api.start({ token: "t" });
      expect(await (await visit(api, "/lab")).text()).toBe("JupyterLab");
      // A token from before does not stand in the way.
      expect(await (await visit(api, "/lab?token=old&reset")).text()).toBe("JupyterLab");
      expect((await visit(api, "/lab", { "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe" })).status).toBe(302);
      expect((await visit(api, "/lab", { "sec-fetch-mode": "cors" })).status).toBe(302);
      expect((await visit(api, "/lab", { accept: "application/json" })).status).toBe(302);
      for (const path of ["/lab", "/headers", "/ws/echo"]) {
        const foreign = await visit(api, path, { host: "evil.example.org" });
        expect([path, foreign.status]).toEqual([path, 403]);
      }
      expect((await visit(api, "/lab", { host: "gateway" })).status).toBe(200);
      const got: Json = await (await fetch(`${api.url}/headers`)).json();
      expect(got.authorization).toBeUndefined();
    },
    LIMIT_MS,
  );

  test(
    "with an API token: a session, JupyterLab's own token, or a program with the API token",
    async () => {
      await using api = await startProxy({ API_TOKEN: "s3cret", PUBLIC_URL: "https://hub.org/u/ann" });
      const { body } = await api.start({ token: "t" });
      const asked = await visit(api, "/lab/tree/a?b=c");
      expect([asked.status, asked.headers.get("location")]).toEqual([200, null]);
      const sent = await visit(api, "/lab?b=c");
      expect([sent.status, sent.headers.get("location")]).toEqual([303, "/u/ann/?next=%2Fu%2Fann%2Flab%3Fb%3Dc"]);
      expect(await (await visit(api, "/lab?token=t")).text()).toBe("JupyterLab");
      const bearer = { authorization: "Bearer s3cret" };
      expect(await (await fetch(`${api.url}/lab`, { headers: bearer })).text()).toBe("JupyterLab");
      expect((await (await fetch(`${api.url}/headers`, { headers: bearer })).json()) as Json).toMatchObject({
        authorization: "token t",
      });
      expect((await fetch(`${api.url}/api/servers/session`, { method: "POST" })).status).toBe(401);
      const session = await api.ask("POST", "/api/servers/session");
      const [set = ""] = session.headers.getSetCookie();
      expect(set).toMatch(
        /^jupyter-session-[0-9a-f]{16}=\d+\.[0-9a-f]{64}; Path=\/u\/ann\/; Max-Age=604800; HttpOnly; SameSite=Lax; Secure$/,
      );
      const cookie = set.split(";")[0] ?? "";
      expect(await (await visit(api, "/lab", { cookie: `a=b; ${cookie}` })).text()).toBe("JupyterLab");
      const got: Json = await (await visit(api, "/headers", { cookie: `a=b; ${cookie}; c=d` })).json();
      expect(got.cookie).toBe("a=b; c=d");
      // It opens JupyterLab and nothing else, and an altered or expired one opens nothing.
      for (const [method, path] of [
        ["GET", "/api/servers/"],
        ["POST", "/api/servers/"],
        ["GET", "/metrics"],
      ] as const)
        expect((await fetch(`${api.url}${path}`, { method, headers: { cookie } })).status).toBe(401);
      const later = cookie.replace(/=(\d+)/, (_, time) => `=${Number(time) + 1}`);
      expect((await visit(api, "/lab", { cookie: later })).status).toBe(303);
      expect(body.token).toBe("t");
    },
    LIMIT_MS,
  );

  test(
    "a session is for frames of other sites where EMBED_ORIGINS names some, on https",
    async () => {
      const more = { API_TOKEN: "s3cret", EMBED_ORIGINS: "https://a.org" };
      await using api = await startProxy(more);
      const over = async (scheme: string) =>
        (await api.ask("POST", "/api/servers/session", undefined, { "x-forwarded-proto": scheme })).headers.get(
          "set-cookie",
        );
      expect(await over("https")).toEndWith("HttpOnly; SameSite=None; Partitioned; Secure");
      expect(await over("http")).toEndWith("HttpOnly; SameSite=Lax");
    },
    LIMIT_MS,
  );
});

describe("a stopped JupyterLab", () => {
  test(
    "is started by a visit, with the last options and token, and by 20 at once only once",
    async () => {
      await using api = await startProxy();
      const first = (await api.start({ "base-url": "/x" })).body;
      await api.stop();
      const answers = await Promise.all(Array.from({ length: 20 }, () => visit(api, "/x/lab")));
      expect(await Promise.all(answers.map((answer) => answer.text()))).toEqual(Array(20).fill("JupyterLab"));
      const { body } = await api.show();
      expect(body).toMatchObject({ base_url: "/x/", token: first.token });
      expect(await countStarts(api)).toBe(2);
      const metrics = (await api.ask("GET", "/metrics")).text;
      expect(metrics).toMatch(/visits_total\{result="started"\} 20$/m);
      expect(api.log.join("\n")).toMatch(/server starting.*by_visit=true/);
      // A visit during a stop waits for it.
      const stopping = api.stop();
      expect((await visit(api, "/x/lab")).status).toBe(200);
      await stopping;
      expect((await api.show()).body.token).toBe(first.token);
    },
    LIMIT_MS,
  );

  test(
    "is started with JUPYTER_TOKEN by a bookmark, and at first with the defaults",
    async () => {
      await using api = await startProxy({ API_TOKEN: "s3cret", JUPYTER_TOKEN: "fixed" });
      const unknown = await visit(api, "/lab?token=wrong");
      expect([unknown.status, await stateOf(api)]).toEqual([303, "stopped"]);
      expect(await (await visit(api, "/lab?token=fixed")).text()).toBe("JupyterLab");
      expect((await api.show()).body.token).toBe("fixed");
    },
    LIMIT_MS,
  );

  test(
    "is not started by what a forgotten tab does, and is by what somebody does in it",
    async () => {
      await using api = await startProxy();
      const { body } = await api.start();
      await api.stop();
      const authorization = `token ${body.token}`;
      const ask = (method: string, path: string, headers = { authorization }) =>
        fetch(`${api.url}${path}`, { method, headers });
      // biome-ignore format: a table reads best in rows
      for (const [method, path] of [
        ["GET", "/api/kernels"], ["GET", "/api/sessions"], ["GET", "/api/contents/a?content=1"], ["GET", "/api/contents"],
        ["PUT", "/lab/api/workspaces/default"], ["HEAD", "/api/contents/a?content=0"],
      ] as const) {
        const answer = await ask(method, path);
        expect([path, answer.status, answer.headers.get("retry-after")]).toEqual([path, 503, "5"]);
      }
      expect(await handshake(api, `/api/events/subscribe?token=${body.token}`, [])).toStartWith("HTTP/1.1 503");
      for (const other of ["token wrong", "token ", ""])
        expect((await ask("PUT", "/api/contents/a", { authorization: other })).status).toBe(503);
      expect(await stateOf(api)).toBe("stopped");
      for (const [method, path] of [
        ["GET", "/api/contents/a?content=0"],
        ["PUT", "/api/contents/a"],
        ["POST", "/api/sessions"],
      ] as const) {
        expect((await ask(method, path)).status).toBe(200);
        expect((await api.show()).body.token).toBe(body.token);
        await api.stop();
      }
    },
    LIMIT_MS,
  );

  test(
    "stays stopped with START_ON_VISIT=false, and a person reads why",
    async () => {
      await using api = await startProxy({ START_ON_VISIT: "false" });
      const answer = await visit(api, "/lab");
      expect([answer.status, answer.headers.get("retry-after")]).toEqual([503, "5"]);
      expect(await answer.text()).toContain("<h1>JupyterLab is not running</h1>");
      expect(await stateOf(api)).toBe("stopped");
    },
    LIMIT_MS,
  );

  test(
    "that can't be started shows a page with the reason and the traceback, escaped",
    async () => {
      const broken = { PYTHON: FAKE, FAKE_MODE: "crash", PUBLIC_URL: "http://127.0.0.1/p" };
      await using api = await startProxy(broken);
      const crashed = await (await visit(api, "/lab")).text();
      expect(crashed).toContain("<summary>Traceback</summary><pre>Traceback (most recent call last):");
      expect(crashed).toContain("ValueError: no start today");
      expect(crashed).toContain('<a href="/p/">open the control page</a>');
      expect((await api.ask("GET", "/metrics")).text).toMatch(/visits_total\{result="failed"\} 1$/m);
      await using blocked = await TestServer.start({ PROXY: "true", PYTHON: "/nowhere/<python>&" });
      const answer = await visit(blocked, "/lab");
      const page = await answer.text();
      expect([answer.status, answer.headers.get("content-type")]).toEqual([500, "text/html; charset=utf-8"]);
      expect(page).toContain("There is no Python at /nowhere/&#60;python&#62;&#38;");
      expect(answer.headers.get("content-security-policy")).toMatch(
        /^default-src 'none'; style-src 'sha256-.*frame-ancestors 'none'$/,
      );
      expect(await visit(blocked, "/lab", { accept: "*/*" }).then((answer) => answer.json())).toMatchObject({
        code: "jupyterlab_stopped",
      });
    },
    LIMIT_MS,
  );
});

describe("a JupyterLab that dies", () => {
  test(
    "ends its websockets, and an answer that was under way is seen to be cut",
    async () => {
      await using api = await startProxy({ AUTO_RESTART: "false" });
      const { body } = await api.start();
      const client = new Client(api, "/ws/echo");
      await client.opened;
      const response = await fetch(`${api.url}/stream`);
      const reader = response.body?.getReader();
      await reader?.read();
      process.kill(body.pid, "SIGKILL");
      expect([1005, 1006]).toContain((await client.closed).code);
      expect(reader?.read() as Promise<unknown>).rejects.toThrow();
      await until("the end", async () => (await stateOf(api)) === "failed");
      expect((await fetch(`${api.url}/seen`)).status).toBe(503);
    },
    LIMIT_MS,
  );
});
