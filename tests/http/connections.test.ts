/** Strangers who hold connections: with 256 descriptors, probes and the owner's requests still get through. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { appendFileSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import manifest from "../../package.json" with { type: "json" };
import { PROJECT, read, runProgram, until } from "../support/helpers.ts";
import { TestServer } from "../support/test-server.ts";
import { installUpstream } from "../support/upstream.ts";
import { handshake, startProxiedLab } from "./proxied.ts";

const LIMIT_MS = 90_000;
const STRANGERS = 300;
const DESCRIPTORS = 256;
const LIVE = "GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n";
/** Of 800 kB each: more than the buffers of a connection hold, and less than makes the log rotate. */
const BLOCKS = 12;
const END = "the end of the log";
const EVENTS = "GET /api/servers/events HTTP/1.1\r\nHost: localhost\r\n\r\n";

let folder: string;
let sockets: Socket[];
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "jupyter-server-"));
  sockets = [];
});
afterEach(() => {
  for (const socket of sockets) socket.destroy();
  rmSync(folder, { recursive: true, force: true });
});

/** Opens a connection and keeps it, whatever the answer. */
function hold(port: number, request: string): { socket: Socket; text: () => string } {
  let text = "";
  const socket = connect({ port, host: "127.0.0.1" }, () => socket.write(request));
  socket.on("data", (chunk) => {
    text += chunk.toString("latin1");
  });
  socket.on("error", () => {});
  sockets.push(socket);
  return { socket, text: () => text };
}

/** Sends a request and waits for its answer. */
async function ask(port: number, request: string): Promise<string> {
  const { text } = hold(port, request);
  await until("an answer", text);
  return text();
}

/** A reader of JupyterLab's log that takes nothing while more is written than buffers hold. */
async function stall(port: number) {
  const reader = hold(port, "GET /api/servers/logs?follow=true HTTP/1.1\r\nHost: localhost\r\n\r\n");
  await until("its first bytes", reader.text);
  reader.socket.pause();
  for (let block = 0; block < BLOCKS; block += 1) {
    const end = block === BLOCKS - 1 ? END : `end ${block}`;
    appendFileSync(join(folder, "run", "jupyterlab.log"), `${`${"x".repeat(8000)}\n`.repeat(100)}${end}\n`);
    // JupyterLab can write a few lines after it.
    const last = () => fetch(`http://127.0.0.1:${port}/api/servers/logs?tail=20`).then((answer) => answer.text());
    await until("the block", async () => (await last()).includes(`${end}\n`));
  }
  return reader;
}

/** Strangers who all send this request to a program that starts: probes, and the end of the start, come through. */
async function expectNoHindrance(
  server: Awaited<ReturnType<typeof runProgram>>,
  request: string,
  started: Promise<Response>,
) {
  const port = Number(server.env.PORT);
  const held = Array.from({ length: STRANGERS }, () => hold(port, request));
  await until("answers to strangers", () => held.filter(({ text }) => text() !== "").length > DESCRIPTORS / 4);
  expect(await ask(port, LIVE)).toStartWith("HTTP/1.1 200");
  expect(held.some(({ text }) => /^connection: close/im.test(text()))).toBe(true);
  expect(readdirSync(`/proc/${server.child.pid}/fd`).length).toBeLessThan(DESCRIPTORS);
  expect(await ask(port, "DELETE /api/servers/ HTTP/1.1\r\nHost: localhost\r\n\r\n")).toStartWith("HTTP/1.1 200");
  await started;
  expect((await server.show()).status).toBe(404);
  for (const socket of sockets.splice(0)) socket.destroy();
  await until("room", async () => !/^connection: close/im.test(await ask(port, LIVE)));
}

test(
  "keep-alive connections, and then event streams, of strangers stop no probe and no DELETE",
  async () => {
    const server = await runProgram(folder, {}, ["prlimit", `--nofile=${DESCRIPTORS}`]);
    await server.ready();
    for (const request of [LIVE, EVENTS]) {
      const started = server.start();
      expect((await started).status).toBe(201);
      await expectNoHindrance(server, request, started);
    }
    server.child.kill("SIGTERM");
    expect(await server.ended()).toBe(0);
  },
  LIMIT_MS,
);

test(
  "starts of a JupyterLab that never answers of strangers stop no probe and no DELETE",
  async () => {
    const server = await runProgram(folder, { FAKE_MODE: "hang" }, ["prlimit", `--nofile=${DESCRIPTORS}`]);
    await server.ready();
    const request = "POST /api/servers/ HTTP/1.1\r\nHost: localhost\r\n\r\n";
    await expectNoHindrance(server, request, server.start());
    server.child.kill("SIGTERM");
    expect(await server.ended()).toBe(0);
  },
  LIMIT_MS,
);

test(
  "JupyterLab's websockets of strangers stop no probe and no DELETE either",
  async () => {
    const env = { PROXY: "true", PYTHON: installUpstream(folder) };
    const server = await runProgram(folder, env, ["prlimit", `--nofile=${DESCRIPTORS}`]);
    await server.ready();
    const port = Number(server.env.PORT);
    expect((await server.start()).status).toBe(201);
    const fields = ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"];
    const key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    const request = ["GET /ws/echo HTTP/1.1", "Host: localhost", ...fields, key, "\r\n"].join("\r\n");
    const held = Array.from({ length: STRANGERS }, () => hold(port, request));
    const count = (status: number) => held.filter(({ text }) => text().startsWith(`HTTP/1.1 ${status}`)).length;
    await until("a refusal", () => count(503) > 0 && count(101) > 0);
    expect(held.find(({ text }) => text().includes(" 503 "))?.text()).toContain("too_many_connections");
    expect(await ask(port, LIVE)).toStartWith("HTTP/1.1 200");
    expect(readdirSync(`/proc/${server.child.pid}/fd`).length).toBeLessThan(DESCRIPTORS);
    expect(await ask(port, "DELETE /api/servers/ HTTP/1.1\r\nHost: localhost\r\n\r\n")).toStartWith("HTTP/1.1 200");
    server.child.kill("SIGTERM");
    expect(await server.ended()).toBe(0);
  },
  LIMIT_MS,
);

test("answers that JupyterLab owes hold up no other request, as the image and `bun start` run the program", async () => {
  const name = "BUN_CONFIG_MAX_HTTP_REQUESTS";
  const [limit] = read(join(PROJECT, "Dockerfile")).match(/(?<=BUN_CONFIG_MAX_HTTP_REQUESTS=)\d+/) ?? [""];
  expect(manifest.scripts.start).toBe(`${name}=${limit} bun index.ts`);
  const server = await runProgram(folder, { PROXY: "true", PYTHON: installUpstream(folder), [name]: limit });
  await server.ready();
  expect((await server.start()).status).toBe(201);
  const port = Number(server.env.PORT);
  const get = (path: string) => `GET ${path} HTTP/1.1\r\nHost: localhost\r\n\r\n`;
  const held = Array.from({ length: STRANGERS }, () => hold(port, get("/stream")));
  await until("their first lines", () => held.every(({ text }) => text().includes("one")));
  expect(await ask(port, get("/headers"))).toStartWith("HTTP/1.1 200");
  server.child.kill("SIGTERM");
  expect(await server.ended()).toBe(0);
});

test(
  "an idle connection is closed, one with a request, a late websocket or a stalled event stream is not: before the first request, between two, and after a long one",
  async () => {
    // Bun closes an idle connection after 8 to 12 seconds. The start has to last longer.
    const { child, env, ready, ended } = await runProgram(folder, { FAKE_MODE: "hang", START_TIMEOUT_S: "15" });
    await ready();
    await using proxy = await startProxiedLab();
    const late = handshake(proxy, "/ws/late", []);
    const port = Number(env.PORT);
    const long = hold(port, "POST /api/servers/ HTTP/1.1\r\nHost: localhost\r\n\r\n");
    const events = hold(port, EVENTS);
    const stalled = await stall(port);
    const idle = [
      hold(port, ""),
      hold(port, "GET / HT"),
      hold(port, LIVE),
      hold(port, "HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
      hold(port, "DELETE /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ];
    await Promise.all(idle.map(({ socket }) => new Promise((settle) => socket.once("close", settle))));
    expect([long.socket.closed, long.text()]).toEqual([false, ""]);
    await until("the end of the start", () => long.text().includes("start_timeout"));
    stalled.socket.resume();
    await until("all that waits", () => stalled.text().includes(END));
    await until("its connection closed", () => long.socket.closed);
    expect(events.socket.closed).toBe(false);
    expect(events.text()).toContain("\n:\n");
    await fetch(`${proxy.url}/go`);
    expect(await late).toStartWith("HTTP/1.1 101");
    child.kill("SIGTERM");
    expect(await ended()).toBe(0);
  },
  LIMIT_MS,
);

test("whoever is refused holds no connection", async () => {
  await using server = await TestServer.start({ API_TOKEN: "of-the-api" });
  for (const path of ["/api/servers/", "/metrics"]) {
    const { socket, text } = hold(Number(server.env.PORT), `GET ${path} HTTP/1.1\r\nHost: localhost\r\n\r\n`);
    await until("the end of the connection", () => socket.closed);
    expect(text()).toStartWith("HTTP/1.1 401");
  }
});

test(
  "whoever does not send the rest of a body for JupyterLab is disconnected; JupyterLab takes its time for a whole one",
  async () => {
    const env = { PROXY: "true", API_TOKEN: "of-the-api", PYTHON: installUpstream(folder) };
    await using server = await TestServer.start(env, undefined, { bodyIdleS: 1 });
    await server.start();
    const send = (path: string, body: string) =>
      hold(Number(server.env.PORT), `POST ${path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n${body}`);
    const whole = send("/late", "ab");
    const stalled = [send("/size", ""), send("/size", "a")];
    await until("the ends of their connections", () => stalled.every(({ socket }) => socket.closed));
    expect([whole.socket.closed, whole.text()]).toEqual([false, ""]);
    await fetch(`${server.url}/go`);
    await until("the answer", () => whole.text().endsWith("late"));
  },
  LIMIT_MS,
);
