/** Descriptors and inodes that have run out: their own words, nothing left behind, and no stop that is believed too soon. */
import { expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseConfig } from "../../config.ts";
import { Supervisor } from "../../jupyter.ts";
import type { LiveLab } from "../../lab/context.ts";
import { History } from "../../lab/history.ts";
import { LogFile } from "../../lab/log-file.ts";
import { PAUSES } from "../../lab/pauses.ts";
import { Standby } from "../../lab/standby.ts";
import { Transfers } from "../../lab/transfers.ts";
import { endProcessTree } from "../../lib/process-tree.ts";
import { Secrets } from "../../lib/redact.ts";
import { findTree, type Json, makeEnv, PROJECT, PYTHON, runProgram, until } from "../support/helpers.ts";
import { startKernel } from "../support/kernel.ts";
import { TestServer } from "../support/test-server.ts";

const DESCRIPTORS = 256;

/** A connection over which requests are sent one after another. */
async function openConnection(port: number) {
  const socket = connect({ port, host: "127.0.0.1" });
  socket.on("error", () => {});
  let text = "";
  socket.on("data", (chunk) => {
    text += chunk.toString();
  });
  const ask = async (method: string, path: string, body = "") => {
    text = "";
    const head = `${method} ${path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n`;
    socket.write(`${head}Content-Length: ${body.length}\r\n\r\n${body}`);
    await until("an answer", () => /\r\n\r\n[\s\S]*\}\s*(\r\n0\r\n\r\n)?$/.test(text));
    const json: Json = JSON.parse(text.slice(text.indexOf("{"), text.lastIndexOf("}") + 1));
    return { status: Number(text.split(" ")[1]), body: json };
  };
  await ask("GET", "/health/live");
  return { ask, close: () => void socket.destroy() };
}

/** Connects until the program has no descriptor left. */
async function takeDescriptors(port: number, pid: number): Promise<() => void> {
  const sockets = Array.from({ length: 300 }, () => connect({ port, host: "127.0.0.1" }).on("error", () => {}));
  const count = () => readdirSync(`/proc/${pid}/fd`).length;
  await until("no descriptor", () => count() >= DESCRIPTORS);
  return () => {
    for (const socket of sockets) socket.destroy();
  };
}

test("without descriptors a DELETE ends a JupyterLab that was recovered", async () => {
  const folder = mkdtempSync(join(tmpdir(), "jupyter-server-"));
  const tree = () => findTree(folder);
  const limit = ["prlimit", `--nofile=${DESCRIPTORS}`];
  try {
    const first = await runProgram(folder, {}, limit);
    await first.ready();
    expect((await first.start({ env: { FAKE_MODE: "tree" } })).status).toBe(201);
    await until("a tree", () => tree().length === 3);
    first.child.kill("SIGKILL");
    await first.ended();

    const next = await runProgram(folder, first.env, limit);
    const port = Number(next.env.PORT);
    await next.ready();
    await until("the recovery", async () => (await next.show()).body.state === "running");
    const owner = await openConnection(port);
    const release = await takeDescriptors(port, next.child.pid);
    expect(await owner.ask("DELETE", "/api/servers/")).toMatchObject({ status: 200 });
    expect(tree()).toEqual([]);
    const folders = () => readdirSync(join(folder, "run")).filter((name) => name.includes(".lab-"));
    expect(folders()).toEqual([]);
    release();
    owner.close();
    await until("a start", async () => (await next.start()).status === 201);
    next.child.kill("SIGTERM");
    expect(await next.ended()).toBe(0);
    expect(tree()).toEqual([]);
  } finally {
    for (const pid of tree()) process.kill(pid, "SIGKILL");
    rmSync(folder, { recursive: true, force: true });
  }
});

test("a start without descriptors says what is missing, and leaves nothing", async () => {
  const folder = mkdtempSync(join(tmpdir(), "jupyter-server-"));
  const script = `
    import { openSync } from "node:fs";
    import { createApp, parseConfig, parseOptions } from ${JSON.stringify(join(PROJECT, "tests", "support", "program.ts"))};
    const config = parseConfig(${JSON.stringify(await makeEnv(folder))}, ${JSON.stringify(folder)});
    const { supervisor } = createApp(config, { writeLog: () => {}, writeOutput: () => {} });
    try { for (;;) openSync("/dev/null"); } catch {}
    const error = await supervisor.start(parseOptions({}, config)).catch((error) => error);
    console.log(error.code, error.message);
    process.exit();`;
  const command = ["prlimit", `--nofile=${DESCRIPTORS}`, process.execPath, "-e", script];
  const { stdout } = Bun.spawnSync(command, { cwd: PROJECT });
  expect(stdout.toString()).toMatch(/^out_of_resources .*this process has no file descriptors left \(EMFILE\)/);
  const names = readdirSync(folder, { recursive: true }).map(String);
  expect(names.filter((name) => name.includes(".lab-"))).toEqual([]);
  rmSync(folder, { recursive: true, force: true });
});

test("a tree that can't be looked at is not known to be gone", async () => {
  const find = () => {
    throw Object.assign(new Error("none"), { code: "ENFILE" });
  };
  const remains = await endProcessTree(find, { graceful: true, timeoutMs: 50, mark: "MARK=none" });
  expect(remains).toEqual({ processes: [], unknown: "ENFILE" });
});

test("a stop that leaves something is none, and a further one tries again", async () => {
  const folder = mkdtempSync(join(tmpdir(), "jupyter-server-"));
  const config = parseConfig(await makeEnv(folder), folder);
  const secrets = new Secrets();
  const logFile = new LogFile(config.logFile, secrets, () => {});
  // No process refuses SIGKILL on demand, so this one stands for it.
  const stubborn = { kill: () => {}, clear: async () => void labs.size, remains: "1 of its processes can't be ended" };
  const labs = new Set<LiveLab>([stubborn]);
  const context = { config, secrets, logFile, log: () => {}, labs, pauses: PAUSES };
  const services = { standby: new Standby(context), history: new History(secrets), transfers: new Transfers(0) };
  const supervisor = new Supervisor({ ...context, ...services });
  const refusal = await supervisor.stop().catch((error) => error);
  expect([refusal.code, refusal.message]).toEqual([
    "stop_incomplete",
    "JupyterLab was told to end, but 1 of its processes can't be ended; a further stop tries again",
  ]);
  expect(supervisor.state).toMatchObject({ state: "failed", lastExit: { code: "stop_incomplete" } });
  stubborn.clear = async () => void labs.delete(stubborn);
  await supervisor.stop();
  expect(() => supervisor.stop()).toThrow("No running server");
  await supervisor.shutdown();
  rmSync(folder, { recursive: true });
});

test("without inodes a start says so, leaves nothing, and the next one works", async () => {
  const folder = mkdtempSync(join(tmpdir(), "jupyter-server-"));
  const run = join(folder, "run");
  mkdirSync(run, { mode: 0o700 });
  if (Bun.spawnSync(["mount", "-t", "tmpfs", "-o", "nr_inodes=40", "tmpfs", run]).exitCode !== 0) {
    console.warn("a small disk can't be mounted: a start without inodes is not tested");
    return rmSync(folder, { recursive: true });
  }
  try {
    await using server = await TestServer.start({}, folder);
    const fillers = join(run, "fillers");
    mkdirSync(fillers);
    try {
      for (let number = 0; ; number += 1) writeFileSync(join(fillers, String(number)), "");
    } catch {
      // They are taken.
    }
    const { status, body } = await server.start();
    expect([status, body.code]).toEqual([503, "out_of_resources"]);
    expect(body.message).toContain("the disk is full, or has no inodes left (ENOSPC)");
    expect(readdirSync(run).filter((name) => name.includes(".lab-"))).toEqual([]);
    rmSync(fillers, { recursive: true });
    expect((await server.start()).status).toBe(201);
    expect((await server.stop()).status).toBe(200);
    Bun.spawnSync(["umount", "--lazy", run]);
  } finally {
    Bun.spawnSync(["umount", "--lazy", run]);
  }
});

test("where the log's disk is full, a configuration file may print, a kernel runs, and what belongs to the log is in memory", async () => {
  const folder = mkdtempSync(join(tmpdir(), "jupyter-server-"));
  const disk = join(folder, "disk");
  mkdirSync(disk);
  if (Bun.spawnSync(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk]).exitCode !== 0) {
    console.warn("a small disk can't be mounted: a kernel whose log does not fit on the disk is not tested");
    return rmSync(folder, { recursive: true });
  }
  const config = join(folder, "config.py");
  writeFileSync(
    config,
    "import sys\nfor _ in range(80): print('x' * 99, file=sys.stderr)\nsys.stdout.buffer.write(b'y' * 99)\n",
  );
  const lines: string[] = [];
  const logFile = new LogFile(join(disk, "appended.log"), new Secrets(), (line) => void lines.push(line));
  try {
    const env = { PYTHON, LOG_FILE: join(disk, "jupyterlab.log"), JUPYTER_CONFIG_FILE: config };
    await using server = await TestServer.start(env, folder);
    logFile.open();
    logFile.append("before ☃\n");
    expect(() => writeFileSync(join(disk, "filler"), Buffer.alloc(128 * 1024))).toThrow("ENOSPC");
    const written = Array.from({ length: 200 }, (_, number) => `line ${number} of many, ☃`);
    logFile.append(`${written.join("\n")}\n`);
    expect(lines).toEqual(["before ☃", ...written]);
    expect(logFile.since(0)).toEqual(lines);
    const { status, body } = await server.start();
    expect([status, body.message]).toEqual([201, undefined]);
    using kernel = await startKernel(body);
    expect(await kernel.run("1+1")).toBe("2");
    Bun.spawnSync(["umount", "--lazy", disk]);
  } finally {
    logFile.close();
    Bun.spawnSync(["umount", "--lazy", disk]);
  }
});
