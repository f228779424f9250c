/** Logs and events as streams: numbered, resumed, bounded, masked, ended. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { appendFileSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readLastId, streamEvents } from "../../http/sse.ts";
import { RingBuffer } from "../../lib/ring.ts";
import { type Json, NO_TEMPLATE, PYTHON, runProgram, until } from "../support/helpers.ts";
import { TestServer } from "../support/test-server.ts";

const LIMIT_MS = 60_000;

interface Event {
  id: number;
  event: string;
  data: string;
}

type Stream = Pick<ReturnType<typeof read>, "events">;

/** Reads a stream as EventSource does; `events` and `comments` grow while it is open. */
function read(response: Response) {
  const events: Event[] = [];
  const seen = { comments: 0, ended: false };
  const reader = (response.body as ReadableStream<Uint8Array>).getReader();
  const pump = async () => {
    const decoder = new TextDecoder();
    for (let rest = ""; ; ) {
      const { done, value } = await reader.read();
      if (done) break;
      const blocks = (rest + decoder.decode(value, { stream: true })).split("\n\n");
      rest = blocks.pop() ?? "";
      for (const block of blocks) {
        if (block.startsWith(":")) seen.comments += 1;
        const field = (name: string) =>
          [...block.matchAll(new RegExp(`^${name}: (.*)$`, "gm"))].map(([, text]) => text).join("\n");
        if (!field("event")) continue;
        events.push({ id: Number(field("id")), event: field("event"), data: field("data") });
      }
    }
  };
  const reading = pump().then(
    () => {
      seen.ended = true;
    },
    () => {},
  );
  return { events, seen, reading, close: () => reader.cancel() };
}

/** The header of a client that has seen this event. */
const after = (event: Event | undefined) => ({ "last-event-id": String(event?.id) });

const open = async (api: TestServer, path: string, headers: Record<string, string> = {}) => {
  const response = await fetch(`${api.url}${path}`, { headers });
  return { response, ...read(response) };
};

describe("an event stream of a ring buffer", () => {
  const line = (data: string) => ({ event: "line", data });

  test("has what is there, then what comes, and ends with the ring buffer", async () => {
    const ring = new RingBuffer<string>(10, 0);
    ring.add("one");
    const { events, reading } = read(streamEvents(ring, 0, line));
    ring.add("two\rthree");
    ring.close();
    await reading;
    expect(events).toEqual([
      { id: 1, event: "line", data: "one" },
      { id: 2, event: "line", data: "two\nthree" },
    ]);
    expect(ring.listeners).toBe(0);
  });

  test.each([
    [30, 25, [26, 27, 28, 29, 30]],
    [30, 30, []],
    [30, 3, ["gap 8", 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30]],
  ])("of %d items, resumed after %d", async (count, last, expected) => {
    const ring = new RingBuffer<string>(10, 0);
    for (let number = 1; number <= count; number += 1) ring.add(String(number));
    ring.close();
    expect(ring.first).toBe(12);
    const { events, reading } = read(streamEvents(ring, last, line));
    await reading;
    expect(events.map(({ id, event, data }) => (event === "gap" ? `gap ${data}` : id))).toEqual(expected);
    for (const { id, event, data } of events) if (event === "line") expect(data).toBe(String(id));
  });

  test("a number that this ring buffer has not given is ignored", () => {
    const ring = new RingBuffer<string>(10, 0);
    ring.add("one");
    const ids = ["0", "1", "2", "-1", "1.5", "x", ""];
    const another = new RingBuffer<string>(10);
    const headers = [...ids, "1e0", String(another.origin), String(another.origin + 1), null];
    expect(headers.map((header) => readLastId(header, ring))).toEqual([0, 1, ...Array(9).fill(undefined)]);
  });

  test("beats while nothing happens", async () => {
    const { seen, close } = read(streamEvents(new RingBuffer<string>(10, 0), 0, line, { heartbeatMs: 5 }));
    await until("heartbeats", () => seen.comments > 2);
    await close();
  });

  test("lets go of everything when its reader goes", async () => {
    const ring = new RingBuffer<string>(10, 0);
    const { close } = read(streamEvents(ring, 0, line));
    expect(ring.listeners).toBe(1);
    await close();
    expect(ring.listeners).toBe(0);
    ring.add("unheard");
  });

  test("what waits for a reader is bounded: it is told how much it has missed", async () => {
    const ring = new RingBuffer<string>(100, 0);
    const body = streamEvents(ring, 0, line);
    for (let number = 1; number <= 1000; number += 1) ring.add("x".repeat(1000));
    const { events, close } = read(body);
    await until("the last one", () => events.at(-1)?.id === 1000);
    const gap = events.findIndex(({ event }) => event === "gap");
    expect(gap).toBeLessThanOrEqual(65);
    expect(Number(events[gap]?.data)).toBe(1000 - (events.length - 1));
    await close();
  });

  test("for a reader that does not read it ends, without an error to be logged, and costs the other nothing", async () => {
    const ring = new RingBuffer<string>(1000, 0);
    const options = { heartbeatMs: 5, stallLimitMs: 50 };
    const idle = streamEvents(ring, 0, line, options).body as ReadableStream<Uint8Array>;
    const { events, close } = read(streamEvents(ring, 0, line, options));
    for (let number = 1; number <= 500; number += 1) ring.add("x".repeat(1000));
    await until("all of it", () => events.length === 500);
    await until("its end", () => ring.listeners === 1);
    expect(events.map(({ id }) => id)).toEqual(Array.from({ length: 500 }, (_, index) => index + 1));
    await close();
    expect((await Bun.readableStreamToBytes(idle)).length).toBeLessThan(2 * 64 * 1024);
  });
});

describe("logs", () => {
  let api: TestServer;
  /** Writes as JupyterLab does. */
  const write = (...lines: string[]) =>
    appendFileSync(join(api.folder, "run", "jupyterlab.log"), lines.map((text) => `${text}\n`).join(""));
  beforeEach(async () => {
    api = await TestServer.start();
  });
  afterEach(() => api[Symbol.asyncDispose]());

  test("are text, by default the last 200 lines", async () => {
    const path = "/api/servers/logs";
    const empty = await api.ask("GET", path);
    expect([empty.status, empty.text]).toEqual([200, ""]);
    expect(empty.headers.get("content-type")).toBe("text/plain; charset=utf-8");
    await api.start({ token: "kept-from-the-log" });
    write(...Array.from({ length: 300 }, (_, index) => `line ${index}`), "it is kept-from-the-log");
    const lines = (await api.ask("GET", `${path}/`)).text.trimEnd().split("\n");
    expect([lines.length, lines[0], lines.at(-1)]).toEqual([200, "line 101", "it is ***"]);
    expect((await api.ask("GET", `${path}?tail=2`)).text).toBe("line 299\nit is ***\n");
    expect((await api.ask("GET", `${path}?tail=0&follow=false`)).text).toBe("");
  });

  test.each([
    ...["tail=x", "tail=-1", "tail=1001", "tail=1.5", "tail=", "tail=1&tail=2"],
    ...["follow=yes", "follow=1", "follow=false&follow=true"],
  ])("?%s is refused", async (query) => {
    const { status, body } = await api.ask("GET", `/api/servers/logs?${query}`);
    expect([status, body.code]).toEqual([422, "invalid_options"]);
    expect(body.message).toContain(`"${query.split("=")[0]}" must be`);
  });

  test("a misspelt parameter is refused", async () => {
    const { status, body } = await api.ask("GET", "/api/servers/logs?tail=1&folow=true");
    const message = '"folow" is not a parameter of this query; the parameters are tail, follow';
    expect([status, body.code, body.message]).toEqual([422, "invalid_options", message]);
  });

  test(
    "followed: the tail, then each line once, resumed without loss or doubling",
    async () => {
      await api.start({ token: "kept-from-the-log" });
      write("one", "two");
      const first = await open(api, "/api/servers/logs?tail=1&follow=true");
      expect(Object.fromEntries(first.response.headers)).toMatchObject({
        "content-type": "text/event-stream; charset=utf-8",
        "cache-control": "no-store, no-transform",
        "x-accel-buffering": "no",
      });
      await until("the tail", () => first.events.length === 1);
      write("three", "kept-from-the-log");
      await until("new lines", () => first.events.length === 3);
      expect(first.events.map(({ data }) => data)).toEqual(["two", "three", "***"]);
      await first.close();
      write("four", "five");
      const second = await open(api, "/api/servers/logs?follow=true", after(first.events[1]));
      await until("the rest", () => second.events.length === 3);
      expect(second.events.map(({ data }) => data)).toEqual(["***", "four", "five"]);
      expect(second.events.map(({ id }) => id)).toEqual(
        [4, 5, 6].map((number) => number + (first.events[0]?.id ?? 0) - 2),
      );
      await second.close();

      write(...Array.from({ length: 5000 }, (_, index) => `many ${index}`));
      await until("many lines", async () => (await api.ask("GET", "/api/servers/logs?tail=1")).text === "many 4999\n");
      const late = await open(api, "/api/servers/logs?follow=true", after(first.events[0]));
      await until("all that is kept", () => late.events.at(-1)?.data === "many 4999");
      const [gap, ...kept] = late.events;
      expect(gap).toEqual({
        id: (kept[0]?.id ?? 0) - 1,
        event: "gap",
        data: String((kept[0]?.id ?? 0) - (first.events[0]?.id ?? 0) - 1),
      });
      expect(kept.map(({ id }) => id)).toEqual(kept.map((_, index) => (kept[0]?.id ?? 0) + index));
      await late.close();

      const unknown = await open(api, "/api/servers/logs?follow=true&tail=1", { "last-event-id": "9" });
      await until("all that is kept", () => unknown.events.at(-1)?.data === "many 4999");
      expect(unknown.events.map(({ event }) => event)).toEqual(kept.map(() => "line"));
      await unknown.close();
    },
    LIMIT_MS,
  );

  test(
    "a client that does not read holds up no other",
    async () => {
      await api.start();
      const socket = connect(Number(api.env.PORT), "127.0.0.1");
      socket.write("GET /api/servers/logs?follow=true HTTP/1.1\r\nhost: localhost\r\n\r\n");
      socket.pause();
      const reader = await open(api, "/api/servers/logs?follow=true&tail=0");
      for (let block = 0; block < 40; block += 1) {
        write(...Array.from({ length: 100 }, () => "x".repeat(8000)), `end ${block}`);
        await until("the block", () => reader.events.at(-1)?.data === `end ${block}`);
        reader.events.splice(0, reader.events.length - 1);
      }
      await reader.close();
      socket.destroy();
    },
    LIMIT_MS,
  );
});

describe("events", () => {
  const data = ({ events }: Stream) => events.map(({ event, data }) => ({ event, ...JSON.parse(data) }));
  const states = (stream: Stream) =>
    data(stream)
      .filter(({ event }) => event === "state")
      .map(({ state }) => state);

  test(
    "tell every state and phase of a real JupyterLab, with milliseconds, and no token",
    async () => {
      await using api = await TestServer.start({ PYTHON, ...NO_TEMPLATE });
      const stream = await open(api, "/api/servers/events");
      await until("the present state", () => stream.events.length === 1);
      expect(data(stream)).toEqual([{ event: "state", state: "stopped", at: expect.any(String), ms: 0, restarts: 0 }]);
      const { body } = await api.start({ token: "kept-from-the-events" });
      await until("running", () => states(stream).includes("running"));
      const phases = data(stream).filter(({ event }) => event === "phase");
      expect(phases.map(({ phase, ms }) => [phase, ms])).toEqual(
        Object.entries(body.start_ms).filter(([phase]) => phase !== "total") as [string, number][],
      );
      expect(phases.at(-1).total_ms).toBe(body.start_ms.total);
      expect(data(stream).at(-1)).toMatchObject({ state: "running", kind: "cold", restarts: 0 });
      expect(data(stream).at(-1)).not.toHaveProperty("code");
      await api.stop();
      await until("stopped", () => states(stream).at(-1) === "stopped");
      expect(states(stream)).toEqual(["stopped", "starting", "running", "stopping", "stopped"]);
      for (const { ms } of data(stream).slice(1)) expect(ms).toBeGreaterThan(0);
      const startedAt = stream.events[0]?.id ?? 0;
      expect(stream.events.map(({ id }) => id)).toEqual(stream.events.map((_, index) => startedAt + index));
      expect(JSON.stringify(stream.events)).not.toContain("kept-from-the-events");
      const resumed = await open(api, "/api/servers/events", after(stream.events[1]));
      await until("the rest", () => resumed.events.length === stream.events.length - 2);
      expect(resumed.events).toEqual(stream.events.slice(2));
      await Promise.all([stream.close(), resumed.close()]);
    },
    LIMIT_MS,
  );

  test(
    "a new reader gets the present state with the phases since",
    async () => {
      await using api = await TestServer.start();
      const gate = join(api.folder, "gate");
      const started = api.start({ env: { FAKE_MODE: "slow", FAKE_GATE: gate } });
      await until("starting", async () => (await api.show()).status === 202);
      const stream = await open(api, "/api/servers/events", { "last-event-id": "99" });
      await until("the spawn", () => stream.events.length === 2);
      expect(data(stream)).toMatchObject([{ state: "starting" }, { phase: "spawn" }]);
      writeFileSync(gate, "");
      await started;
      await until("running", () => states(stream).at(-1) === "running");
      await stream.close();
    },
    LIMIT_MS,
  );

  test(
    "a crash, a failed start and a cancelled one say why",
    async () => {
      await using api = await TestServer.start();
      const stream = await open(api, "/api/servers/events");
      await api.start({ env: { FAKE_MODE: "crash" } });
      await until("failed", () => states(stream).at(-1) === "failed");
      expect(data(stream).at(-1)).toMatchObject({
        code: "crashed",
        message: expect.stringContaining("no start today"),
      });
      const { body } = await api.start();
      process.kill(body.pid, "SIGKILL");
      const crash = (await until("a restart", () => data(stream).find(({ restarts }: Json) => restarts === 1))) as Json;
      expect(crash).toMatchObject({ state: "starting", code: "crashed", message: expect.stringContaining("SIGKILL") });
      await until("running", () => states(stream).at(-1) === "running");
      expect(data(stream).at(-1)).toMatchObject({ restarts: 1 });
      await stream.close();
    },
    LIMIT_MS,
  );

  test(
    "both streams end with the program",
    async () => {
      const folder = mkdtempSync(join(tmpdir(), "jupyter-server-"));
      const { child, url, ready, start, ended } = await runProgram(folder);
      await ready();
      await start();
      const follow = async (path: string) => read(await fetch(url + path));
      const streams = await Promise.all([follow("events"), follow("logs?follow=true")]);
      await until("both", () => streams.every(({ events }) => events.length > 0));
      child.kill("SIGTERM");
      await Promise.all(streams.map(({ reading }) => reading));
      expect(streams.map(({ seen }) => seen.ended)).toEqual([true, true]);
      expect(states(streams[0] as Stream).slice(-2)).toEqual(["stopping", "stopped"]);
      expect(await ended()).toBe(0);
      rmSync(folder, { recursive: true });
    },
    LIMIT_MS,
  );
});
