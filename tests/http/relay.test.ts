/** Websockets through the proxy: messages, pings and closes, in both directions, and ends that go without a word. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Json, runProgram, until } from "../support/helpers.ts";
import type { TestServer } from "../support/test-server.ts";
import { installUpstream, LARGE_BYTES } from "../support/upstream.ts";
import {
  Client,
  handshake,
  headOf,
  IS_DENO,
  LIMIT_MS,
  requestOf,
  seen,
  startProxiedLab,
  startProxy,
  stateOf,
} from "./proxied.ts";

const MB = 1024 * 1024;

describe("websockets through the proxy", () => {
  let api: TestServer;
  beforeAll(async () => {
    api = await startProxiedLab();
  }, LIMIT_MS);
  afterAll(() => api[Symbol.asyncDispose]());
  // Those of the tests before end in their own time.
  const noneOpen = () => until("no open end upstream", async () => (await seen(api)).open === 0);

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

  test.each(["a, a", "a, A", "a b", "é", 'a"b', "(x)"])("an offer of %j is refused", async (offered) => {
    expect(await handshake(api, "/ws/echo", [offered])).toStartWith("HTTP/1.1 400");
  });

  // Bun does not ask for the second.
  test.each(["Sec-WebSocket-Key", ...(IS_DENO ? ["Connection"] : [])])(
    "a handshake without %s is refused, and leaves nothing open",
    async (name) => {
      const request = requestOf("/ws/echo", []).replace(new RegExp(`${name}: .*\r\n`), "");
      expect(await headOf(api, request)).toStartWith("HTTP/1.1 400");
      await noneOpen();
    },
  );

  test("a browser that goes before JupyterLab has decided leaves nothing open", async () => {
    const socket = connect(Number(api.env.PORT), "127.0.0.1");
    socket.write(requestOf("/ws/late", []));
    await until("the handshake upstream", async () => (await seen(api)).late === 1);
    socket.resetAndDestroy();
    await until("its end", async () => (await seen(api)).late === 0);
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
    for (let round = 0; round < 20; round += 1) {
      const client = new Client(api, "/ws/echo");
      if (round % 3 === 0) await client.opened;
      (client.socket as unknown as { terminate(): void }).terminate();
      const socket = connect(Number(api.env.PORT), "127.0.0.1");
      socket.write(requestOf("/ws/echo", []));
      if (round % 2 === 0) await new Promise((settle) => socket.once("data", settle));
      socket.resetAndDestroy();
    }
    await noneOpen();
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
      await new Promise<void>((settle) => {
        socket.once("data", (chunk: Buffer) => {
          socket.pause();
          // The first messages can come in one piece with the answer's head.
          socket.unshift(chunk.subarray(chunk.indexOf("\r\n\r\n") + 4));
          settle();
        });
      });
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

  test.skipIf(IS_DENO)(
    "leaves a download that is seen to be cut, and no token in the log",
    async () => {
      const folder = mkdtempSync(join(tmpdir(), "jupyter-server-"));
      const env = { PROXY: "true", PYTHON: installUpstream(folder), AUTO_RESTART: "false", LOG_FORMAT: "json" };
      const {
        child,
        env: { PORT },
        log,
        ready,
        start,
        show,
        ended,
      } = await runProgram(folder, env);
      await ready();
      const { pid } = (await (await start({ token: "of-jupyterlab" })).json()) as Json;
      const socket = connect(Number(PORT), "127.0.0.1");
      socket.on("error", () => {});
      socket.write("GET /large?token=of-jupyterlab HTTP/1.1\r\nHost: localhost\r\n\r\n");
      await new Promise<void>((settle) => {
        socket.once("data", () => {
          socket.pause();
          settle();
        });
      });
      process.kill(pid, "SIGKILL");
      await until("the end of JupyterLab", async () => (await show()).body.state === "failed");
      const rest: Buffer[] = [];
      socket.on("data", (chunk: Buffer) => void rest.push(chunk)).resume();
      await until("the end of the download", () => socket.closed);
      const bytes = Buffer.concat(rest);
      expect([bytes.length < LARGE_BYTES, bytes.toString("latin1").endsWith("\r\n0\r\n\r\n")]).toEqual([true, false]);
      child.kill("SIGTERM");
      expect(await ended()).toBe(0);
      for (const line of log) expect(JSON.parse(line)).toHaveProperty("level");
      expect(log.join("\n")).not.toContain("of-jupyterlab");
      rmSync(folder, { recursive: true });
    },
    LIMIT_MS,
  );
});

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
