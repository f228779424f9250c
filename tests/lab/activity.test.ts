/** Busy and idle, with real kernels, terminals and clients; and what can't be known, with a stand-in. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describeBusy, describeNoActivity } from "../../lab/activity.ts";
import { freePort, type Json, NO_TEMPLATE, PYTHON, pidsWith, read, until } from "../support/helpers.ts";
import { startKernel, waitFor } from "../support/kernel.ts";
import { TestServer } from "../support/test-server.ts";

const LAB_LIMIT_MS = 60_000;
const IDLE_LIMIT_MS = 120_000;
/** Longer than the looks of a test at an idle JupyterLab take. */
const IDLE_TIMEOUT_S = 8;
const MORE_THAN_IDLE_MS = IDLE_TIMEOUT_S * 1000 + 1500;
const look = async (api: TestServer) => (await api.ask("GET", "/api/servers/activity")).body;
const isGone = async (api: TestServer) => (await api.show()).status === 404;

/** A request as a client of JupyterLab makes it. */
const call = (server: Json, method: string, path: string, body?: unknown) =>
  fetch(`${server.url}${path}`, {
    method,
    headers: { authorization: `token ${server.token}`, "content-type": "application/json" },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });

/** A terminal, and a way to type into it. */
async function openTerminal(server: Json) {
  const { name } = (await (await call(server, "POST", "api/terminals")).json()) as { name: string };
  const socket = new WebSocket(
    `${server.url.replace(/^http/, "ws")}terminals/websocket/${name}?token=${encodeURIComponent(server.token)}`,
  );
  let screen = "";
  socket.onmessage = ({ data }) => {
    const [kind, text] = JSON.parse(String(data));
    if (kind === "stdout") screen += text;
  };
  await until("a prompt", () => /[$#]/.test(screen));
  return { name, type: (text: string) => socket.send(JSON.stringify(["stdin", text])), close: () => socket.close() };
}

test("without a server it says so, and nothing is busy", async () => {
  await using api = await TestServer.start();
  const { status, body } = await api.ask("GET", "/api/servers/activity/");
  expect(status).toBe(200);
  expect(body).toEqual({
    state: "stopped",
    busy: false,
    idle_seconds: 0,
    last_activity: null,
    connections: 0,
    kernels: [],
    terminals: [],
    unknown: null,
  });
});

test.each([
  [["busy"], [true], "1 kernel and 1 terminal are busy"],
  [["busy", "idle", "busy"], [false], "2 kernels are busy"],
  [["starting"], [true, true, false], "2 terminals are busy"],
])("kernels that are %j and terminals that are %j: %s", (states, terminals, sentence) => {
  const activity = {
    ...describeNoActivity("running"),
    kernels: states.map((state) => ({ id: "", name: "", state, last_activity: "", connections: 0 })),
    terminals: terminals.map((busy) => ({ name: "", last_activity: "", busy })),
  };
  expect(describeBusy(activity)).toBe(sentence);
});

describe("a real JupyterLab", () => {
  let api: TestServer;
  let home: string;
  beforeAll(async () => {
    const folder = mkdtempSync(join(tmpdir(), "jupyter-server-"));
    home = join(folder, "home");
    mkdirSync(home);
    const env = { PYTHON, STANDBY: "on", HOME: home, IDLE_TIMEOUT_S: String(IDLE_TIMEOUT_S) };
    api = await TestServer.start(env, folder);
    api.prepare();
  }, LAB_LIMIT_MS);
  afterEach(() => api.stop());
  afterAll(() => api[Symbol.asyncDispose](), LAB_LIMIT_MS);

  test(
    "kernels and terminals are told; a silent cell and a silent program are busy; asking is no activity",
    async () => {
      const server = (await api.start()).body;
      const fresh = await look(api);
      expect(fresh).toMatchObject({ state: "running", busy: false, kernels: [], terminals: [], unknown: null });
      // Its age counts from its start: the requests of the start itself are no activity.
      expect(fresh.last_activity).toBe(server.started_at);

      using client = await startKernel(server);
      await client.run("1+1");
      const idle = await until("an idle kernel", async () => [await look(api)].find(({ busy }) => !busy));
      expect(idle).toMatchObject({ connections: 1, unknown: null });
      expect(idle.kernels).toEqual([
        {
          id: client.kernel.id,
          name: "python3",
          state: "idle",
          last_activity: expect.stringMatching(/Z$/),
          connections: 1,
        },
      ]);
      expect(Date.parse(idle.last_activity)).toBeGreaterThan(Date.parse(fresh.last_activity));

      const gate = join(api.folder, "gate");
      const cell = client.run(waitFor(gate));
      const busy = await until("a busy kernel", async () => [await look(api)].find((activity) => activity.busy));
      expect(busy).toMatchObject({ idle_seconds: 0, kernels: [{ state: "busy" }] });
      const refused = await api.ask("DELETE", "/api/servers/?if-idle=true");
      expect([refused.status, refused.body.code]).toEqual([409, "busy"]);
      expect(refused.body.message).toBe("The server was not stopped: 1 kernel is busy");
      writeFileSync(gate, "");
      await cell;
      await until("an idle kernel", async () => !(await look(api)).busy);

      const terminal = await openTerminal(server);
      const other = await openTerminal(server);
      // A shell that reads its settings is at work.
      const ready = await until("shells at rest", async () => [await look(api)].find((activity) => !activity.busy));
      expect(ready.terminals).toMatchObject([{ busy: false }, { busy: false }]);
      other.type("sleep 1000\n");
      const running = await until("a program", async () => [await look(api)].find((activity) => activity.busy));
      expect(running.terminals).toEqual([
        { name: terminal.name, last_activity: expect.stringMatching(/Z$/), busy: false },
        { name: other.name, last_activity: expect.stringMatching(/Z$/), busy: true },
      ]);
      expect((await api.ask("DELETE", "/api/servers/?if-idle=true")).body.message).toBe(
        "The server was not stopped: 1 terminal is busy",
      );
      other.type("\x03");
      const before = await until("an end", async () => [await look(api)].find((activity) => !activity.busy));
      const later = await until("another look", async () =>
        [await look(api)].find(({ idle_seconds }) => idle_seconds > before.idle_seconds + 0.3),
      );
      expect(later.last_activity).toBe((await look(api)).last_activity);
      // What an open tab asks by itself every few seconds is no sign of life; a file that is saved is one.
      for (const path of ["api/contents", "api/kernels", "api/sessions", "api/terminals", "api/kernelspecs", "api/me"])
        expect((await call(server, "GET", path)).status).toBe(200);
      await call(server, "PUT", "lab/api/workspaces/default", { data: {}, metadata: { id: "default" } });
      // Nor is what a stranger gets, and what they don't.
      const publicPath = "lab/api/themes/@jupyterlab/theme-light-extension/index.css";
      for (const path of ["static/favicon.ico", "login", publicPath, "lab", "files/none"])
        await fetch(`${server.url}${path}`, { redirect: "manual" }).then((answer) => answer.arrayBuffer());
      await fetch(`${server.url}api/contents`, { method: "OPTIONS" });
      expect((await look(api)).last_activity).toBe(later.last_activity);
      await call(server, "PUT", "api/contents/a.txt", { type: "file", format: "text", content: "a" });
      expect(Date.parse((await look(api)).last_activity)).toBeGreaterThan(Date.parse(later.last_activity));
      // The page and a download are, though Jupyter's own time stands still.
      for (const path of ["lab", "files/a.txt?download=1"]) {
        const before = Date.now();
        await (await call(server, "GET", path)).text();
        expect(Date.parse((await look(api)).last_activity)).toBeGreaterThanOrEqual(before);
      }
      terminal.close();
      other.close();
      expect((await api.ask("DELETE", "/api/servers/?if-idle=true")).status).toBe(200);
    },
    LAB_LIMIT_MS,
  );

  test(
    "IDLE_TIMEOUT_S spares a kernel at work and a terminal with a program in it, stops an idle JupyterLab, also one with a sleeping helper of a shell's prompt, and the next start brings it back",
    async () => {
      const server = (await api.start()).body;
      using client = await startKernel(server);
      const gate = join(api.folder, "idle-gate");
      const began = Date.now();
      const cell = client.run(`${waitFor(gate)}'done'`);
      await until("a busy kernel", async () => (await look(api)).busy);
      // Longer than an idle one has: what is asserted is that it still runs.
      await until("more than its time", () => Date.now() - began > MORE_THAN_IDLE_MS);
      expect(await look(api)).toMatchObject({ state: "running", busy: true });
      const terminal = await openTerminal(server);
      // It computes for some 30 ms of every 630: more than a clock tick, and not a whole processor.
      terminal.type("while sleep 0.6; do i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; done &\n");
      await until("a program", async () => (await look(api)).terminals[0].busy);
      writeFileSync(gate, "");
      expect(await cell).toBe("'done'");
      const ended = Date.now();
      await until("more than its time", () => Date.now() - ended > MORE_THAN_IDLE_MS);
      expect((await api.show()).status).toBe(200);
      terminal.type("kill %1\n");
      // Its websockets stay open: an open tab alone keeps nothing.
      await until("a stop", () => isGone(api));
      terminal.close();
      expect(api.tree()).toEqual(api.standbyPids());
      expect((await api.show()).body).not.toHaveProperty("last_exit");
      const countStops = () => api.log.filter((line) => line.includes("server idle")).length;
      expect(countStops()).toBe(1);
      expect((await api.ask("GET", "/health/ready")).status).toBe(200);
      for (const name of [".bashrc", ".profile"]) writeFileSync(join(home, name), "sleep 3000 & disown\n");
      const again = await api.start({ env: { SHELL: "/bin/bash", ...NO_TEMPLATE } });
      expect(again.status).toBe(201);
      const withHelper = await openTerminal(again.body);
      // The prompt does not wait for it.
      const hasHelper = () => pidsWith(home).some((pid) => read(`/proc/${pid}/cmdline`).startsWith("sleep"));
      expect(await until("the helper", hasHelper)).toBe(true);
      await until("a stop", () => isGone(api));
      expect(countStops()).toBe(2);
      withHelper.close();
    },
    IDLE_LIMIT_MS,
  );

  test(
    "a gateway that is down is why nothing is known of kernels, and JupyterLab is not asked in vain",
    async () => {
      const from = (await api.readOutput()).length;
      await api.start({ "gateway-url": `http://127.0.0.1:${await freePort()}` });
      const { busy, unknown } = await look(api);
      expect(busy).toBe(true);
      expect(unknown).toMatch(/^JupyterLab did not report its kernels \(.* did not answer: connection refused\)$/);
      const refused = await api.ask("DELETE", "/api/servers/?if-idle=true");
      expect([refused.status, refused.body.code]).toEqual([409, "busy"]);
      expect(refused.body.message).toContain("connection refused");
      expect((await api.readOutput()).slice(from).join("\n")).not.toContain("GET /api/kernels");
    },
    LAB_LIMIT_MS,
  );
});

test(
  "IDLE_TIMEOUT_S: a kernel that is starting for ever keeps nothing; one that can't be asked does",
  async () => {
    await using api = await TestServer.start({ IDLE_TIMEOUT_S: "1" });
    await api.start({ env: { FAKE_MODE: "starting" } });
    expect((await look(api)).kernels).toMatchObject([{ state: "starting" }]);
    await until("a stop", () => isGone(api));
    await api.start({ env: { FAKE_MODE: "unheard" } });
    const began = Date.now();
    await until("more than its time", () => Date.now() - began > 2500);
    const { busy, unknown, state } = await look(api);
    expect({ busy, unknown, state }).toEqual({
      state: "running",
      busy: true,
      unknown: "JupyterLab did not report its kernels (status 503)",
    });
    const refused = await api.ask("DELETE", "/api/servers/?if-idle=true");
    expect([refused.status, refused.body.code]).toEqual([409, "busy"]);
    expect(refused.body.message).toContain("did not report its kernels");
  },
  LAB_LIMIT_MS,
);

test(
  "a JupyterLab that does not answer in time counts as busy, and that is said",
  async () => {
    await using api = await TestServer.start();
    await api.start({ env: { FAKE_MODE: "silent" } });
    const { busy, unknown } = await look(api);
    expect(busy).toBe(true);
    expect(unknown).toContain("its kernels (no answer within 2 s)");
  },
  LAB_LIMIT_MS,
);
