/** What a control API finds of the one before it, which was killed. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import {
  appendFileSync,
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readConnection } from "../../lab/connection.ts";
import { acquireLock, releaseLock } from "../../lab/lock.ts";
import type { Pauses } from "../../lab/pauses.ts";
import { readBootId, readProcess } from "../../lib/procfs.ts";
import { TestGateway } from "../gateway.ts";
import { collectLines, type Json, PROJECT, PYTHON, pidsWith, runProgram, TestServer, until } from "../helpers.ts";
import { startKernel } from "../kernel.ts";

const LAB_LIMIT_MS = 60_000;

let folder: string;
let file: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "jupyter-server-"));
  file = join(folder, "run", "connection.json");
});
afterEach(() => {
  for (const pid of tree()) process.kill(pid, "SIGKILL");
  rmSync(folder, { recursive: true, force: true });
});

const tree = () => pidsWith(`${folder}/run/connection.json.lab-`);
const runtimeFolders = () => readdirSync(join(folder, "run")).filter((name) => name.includes(".lab-"));

/** A control API that has started a server and was killed. */
async function killOne(body: object = {}, more: Record<string, string> = {}) {
  const first = await runProgram(folder, more);
  await first.ready();
  const server = (await (await first.start(body)).json()) as Json;
  first.child.kill("SIGKILL");
  await first.ended();
  return { server, env: first.env, log: first.log };
}

/** The next control API, with the same environment. */
async function runNext(env: Record<string, string>, pauses: Partial<Pauses> = {}) {
  const next = await TestServer.start(env, folder, pauses);
  const settled = () =>
    until("the end of the recovery", async () => {
      const answer = await next.show();
      return answer.status === 202 ? undefined : answer;
    });
  return Object.assign(next, { settled });
}

test(
  "JupyterLab, its kernels, its log and all that is known of it outlive the control API",
  async () => {
    const { server, env } = await killOne({ token: "kept", "base-url": "/user/x" }, { PYTHON });
    using client = await startKernel(server);
    expect(await client.run("answer = 42; answer")).toBe("42");
    await using next = await runNext(env);
    const { status, body } = await next.settled();
    expect(status).toBe(200);
    expect({ ...body, last_exit: null }).toEqual({ ...server, last_exit: null });
    expect(await client.run("answer")).toBe("42");
    expect(next.log.join()).toContain(`server recovered pid=${server.pid}`);
    expect(next.log.join() + next.output.join()).not.toContain("kept");
    expect((await next.start({ token: "kept", "base-url": "/user/x" })).status).toBe(200);
    expect((await next.start()).status).toBe(409);
    process.kill(server.pid, "SIGKILL");
    const restarted = await until("the restart", async () => {
      const answer = await next.show();
      return answer.status === 200 && answer.body.pid !== server.pid ? answer.body : undefined;
    });
    expect(restarted).toMatchObject({ token: "kept", url: server.url, restarts: 1, last_exit: { code: "crashed" } });
    expect(restarted.last_exit.log_tail.join()).toContain("Kernel started");
    expect((await next.stop()).status).toBe(200);
    expect(tree()).toEqual([]);
    expect(runtimeFolders()).toEqual([]);
  },
  LAB_LIMIT_MS,
);

test(
  "a recovered JupyterLab that ends with code 0 is a stop, not a crash",
  async () => {
    const { server, env } = await killOne({}, { PYTHON });
    await using next = await runNext(env);
    expect((await next.settled()).status).toBe(200);
    process.kill(server.pid, "SIGTERM");
    const { body } = await until("the stop", async () => {
      const answer = await next.show();
      return answer.status === 404 ? answer : undefined;
    });
    expect(body).toMatchObject({ state: "stopped", last_exit: { code: null } });
  },
  LAB_LIMIT_MS,
);

test("it is stopped by a DELETE as any other", async () => {
  const { env } = await killOne({ env: { FAKE_MODE: "tree" } });
  await until("a tree", () => tree().length === 3);
  await using next = await runNext(env);
  expect((await next.settled()).status).toBe(200);
  expect((await next.stop()).status).toBe(200);
  expect(tree()).toEqual([]);
  expect(existsSync(file)).toBe(false);
});

test("it is stopped also by a DELETE, or an end of the program, that comes during the recovery", async () => {
  const { env } = await killOne();
  {
    await using next = await TestServer.start(env, mkdtempSync(join(tmpdir(), "jupyter-server-")));
    expect((await next.stop()).status).toBe(200);
    expect(tree()).toEqual([]);
    expect((await next.show()).body.state).toBe("stopped");
    expect((await next.start()).status).toBe(201);
  }
  const again = await killOne();
  const next = await runNext(again.env);
  await next[Symbol.asyncDispose]();
  expect(tree()).toEqual([]);
});

describe("is ended, or was, and the state says so:", () => {
  test("a JupyterLab that is gone, with what it left", async () => {
    const { server, env } = await killOne({ env: { FAKE_MODE: "tree" } });
    await until("a tree", () => tree().length === 3);
    process.kill(server.pid, "SIGKILL");
    await using next = await runNext(env);
    const { status, body } = await next.settled();
    expect([status, body.state, body.last_exit.code]).toEqual([404, "failed", "crashed"]);
    expect(body.last_exit.message).toContain(`pid ${server.pid}`);
    expect(tree()).toEqual([]);
    expect(runtimeFolders()).toEqual([]);
    expect(existsSync(file)).toBe(false);
    expect((await next.start()).status).toBe(201);
  });

  test("one whose folder was removed while it was frozen", async () => {
    const { server, env } = await killOne();
    process.kill(server.pid, "SIGSTOP");
    rmSync(join(folder, "run"), { recursive: true });
    await using next = await runNext(env);
    expect((await next.settled()).body.state).toBe("stopped");
    expect(tree()).toEqual([]);
    expect((await next.start()).status).toBe(201);
  });

  test(
    "one that does not answer",
    async () => {
      const { server, env } = await killOne();
      process.kill(server.pid, "SIGSTOP");
      await using next = await runNext(env, { recoveryProbeMs: 200 });
      const { body } = await next.settled();
      expect(body.last_exit.message).toContain("did not answer: it was ended");
      expect(tree()).toEqual([]);
    },
    LAB_LIMIT_MS,
  );

  test(
    "one that does not know its secret",
    async () => {
      const { env } = await killOne({}, { PYTHON });
      const record = JSON.parse(readFileSync(file, "utf8"));
      writeFileSync(file, JSON.stringify({ ...record, supervisor: { ...record.supervisor, secret: "another" } }));
      await using next = await runNext(env);
      const { body } = await next.settled();
      expect(body.last_exit.message).toContain("answered with status 403");
      expect(tree()).toEqual([]);
    },
    LAB_LIMIT_MS,
  );
});

describe("ends no process that is not its own:", () => {
  test.each([
    ["of a pid that is something else now", (record: Json) => ({ ...record, pid: process.pid })],
    ["of another boot", (record: Json) => ({ ...record, supervisor: { ...record.supervisor, boot_id: "another" } })],
    [
      "of the same pid with another start time",
      (record: Json) => ({ ...record, supervisor: { ...record.supervisor, start_time: 1 } }),
    ],
  ])("a record %s", async (_title, change) => {
    const other = Bun.spawn(["sleep", "60"]);
    const { env } = await killOne();
    const record = change(JSON.parse(readFileSync(file, "utf8")));
    writeFileSync(file, JSON.stringify(record.pid === process.pid ? { ...record, pid: other.pid } : record));
    await using next = await runNext(env);
    expect((await next.settled()).body.last_exit.message).toContain("was gone");
    expect(other.exitCode).toBeNull();
    expect(tree()).toEqual([]);
    other.kill();
  });

  test.each([
    ["half-written", (text: string) => text.slice(0, 200), "is not complete JSON"],
    ["empty", () => "", "is not complete JSON"],
    ["of another format", () => '{"pid": 1}', "has another format"],
  ])("a file that is %s", async (_title, change, reason) => {
    const { env } = await killOne();
    writeFileSync(file, change(readFileSync(file, "utf8")));
    await using next = await runNext(env);
    expect((await next.settled()).body.state).toBe("stopped");
    expect(next.log.filter((line) => line.includes("connection file removed")).join()).toContain(reason);
    expect(tree()).toEqual([]);
  });
});

test("a record can name no folder but its own", async () => {
  const { env } = await killOne();
  const record = JSON.parse(readFileSync(file, "utf8"));
  const own = record.supervisor.runtime_dir;
  for (const named of [
    folder,
    join(folder, "run"),
    `${own}/..`,
    `${own}/connection.json.lab-x`,
    "/no/connection.json.lab-x",
  ]) {
    writeFileSync(file, JSON.stringify({ ...record, supervisor: { ...record.supervisor, runtime_dir: named } }));
    expect(readConnection(file)).toBe(`${file} names a folder that is not its own`);
  }
  await using next = await runNext(env);
  expect((await next.settled()).body.state).toBe("stopped");
  expect(tree()).toEqual([]);
});

test.skipIf(process.getuid?.() !== 0)("a record of somebody else is not believed", async () => {
  await killOne();
  expect(readConnection(file)).toBeObject();
  chownSync(file, 12345, 12345);
  expect(readConnection(file)).toBe(`${file} belongs to another user`);
});

test("a start that was under way is ended with all of it", async () => {
  const first = await runProgram(folder, {});
  await first.ready();
  void first.start({ env: { FAKE_MODE: "hang" } }).catch(() => {});
  await until("the child", () => tree().length > 0);
  first.child.kill("SIGKILL");
  await first.ended();
  await using next = await runNext(first.env);
  expect((await next.settled()).body.state).toBe("stopped");
  expect(tree()).toEqual([]);
  expect(runtimeFolders()).toEqual([]);
});

test(
  "kernels at a gateway are deleted there where JupyterLab has gone with the control API",
  async () => {
    await using gateway = await TestGateway.start();
    const { server, env } = await killOne(
      { "gateway-url": gateway.url, "gateway-auth-token": gateway.token },
      { PYTHON },
    );
    {
      using client = await startKernel(server);
      expect(await client.run("1+1")).toBe("2");
    }
    process.kill(server.pid, "SIGKILL");
    await using next = await runNext(env);
    await next.settled();
    expect(await gateway.kernels()).toEqual([]);
  },
  LAB_LIMIT_MS,
);

test("a second control API on one connection file refuses to start, and a stale lock does not prevent a start", async () => {
  const first = await runProgram(folder);
  await first.ready();
  const second = await runProgram(folder);
  expect(await second.ended()).toBe(1);
  expect(second.log.at(-1)).toContain(`the control API with pid ${first.child.pid} uses CONNECTION_FILE ${file}`);
  expect((await fetch(first.url)).status).toBe(404);
  first.child.kill("SIGKILL");
  await first.ended();
  const third = await runProgram(folder, first.env);
  await third.ready();
  third.child.kill("SIGTERM");
  expect(await third.ended()).toBe(0);
  expect(existsSync(`${file}.lock`)).toBe(false);
});

test("a connection file whose folder was removed is renewed with its lock, and no second control API takes it", async () => {
  const first = await runProgram(folder);
  await first.ready();
  const { pid } = (await (await first.start()).json()) as Json;
  rmSync(join(folder, "run"), { recursive: true });
  await until("the renewal", () => existsSync(file) && existsSync(`${file}.lock`));
  expect(readConnection(file)).toMatchObject({ pid });
  const second = await runProgram(folder);
  expect(await second.ended()).toBe(1);
  // The record alone tells whose it is, too.
  rmSync(`${file}.lock`);
  const third = await runProgram(folder);
  expect(await third.ended()).toBe(1);
  expect(third.log.at(-1)).toContain(`the control API with pid ${first.child.pid} uses CONNECTION_FILE ${file}`);
  first.child.kill("SIGTERM");
  expect(await first.ended()).toBe(0);
});

test("a control API that has lost its lock to another one shows its own server only, and starts no further one", async () => {
  const first = await runProgram(folder);
  await first.ready();
  const { pid } = (await (await first.start()).json()) as Json;
  // At once, so that the other one comes before the renewal.
  rmSync(join(folder, "run"), { recursive: true });
  const lockOfOther = { pid: process.pid, start_time: readProcess(process.pid)?.startTime, boot_id: readBootId() };
  mkdirSync(join(folder, "run"));
  writeFileSync(`${file}.lock`, JSON.stringify(lockOfOther));
  await until("the notice", () => first.log.some((line) => line.includes("connection file lost")));
  expect(existsSync(file)).toBe(false);
  expect((await first.show()).body.pid).toBe(pid);
  const restart = await fetch(`${first.url}restart`, { method: "POST" });
  expect((await restart.json()) as Json).toMatchObject({ code: "config_error" });
  first.child.kill("SIGTERM");
  expect(await first.ended()).toBe(0);
  expect(JSON.parse(readFileSync(`${file}.lock`, "utf8"))).toEqual(lockOfOther);
});

test("what an earlier server has written is not shown by the next control API", async () => {
  const first = await runProgram(folder);
  await first.ready();
  await first.start({ env: { FAKE_MODE: "tree", SECRET_OF_OLD: "an-earlier-secret" } });
  appendFileSync(join(folder, "run", "jupyterlab.log"), "a child prints an-earlier-secret\n");
  await fetch(first.url, { method: "DELETE" });
  await first.start({ token: "a-later-secret" });
  appendFileSync(join(folder, "run", "jupyterlab.log"), "a child prints a-later-secret\n");
  first.child.kill("SIGKILL");
  await first.ended();
  await using next = await runNext(first.env);
  await next.settled();
  expect((await next.ask("GET", "/api/servers/logs")).text).toBe("fake mode=ok\na child prints ***\n");
});

test("the file and its folder are its owner's alone", async () => {
  const { env } = await killOne();
  expect(statSync(file).mode & 0o777).toBe(0o600);
  expect(statSync(join(folder, "run")).mode & 0o777).toBe(0o700);
  await using _next = await runNext(env);
});

test("of many programs that find a stale lock at the same time exactly one takes it", async () => {
  const [rounds, roundMs, begin] = [100, 15, Date.now() + 1000];
  for (let round = 0; round < rounds; round += 1) writeFileSync(join(folder, `${round}.lock`), "stale");
  const script = `
    const { acquireLock } = await import(${JSON.stringify(join(PROJECT, "lab", "lock.ts"))});
    for (let round = 0; round < ${rounds}; round += 1) {
      const time = ${begin} + round * ${roundMs};
      await Bun.sleep(Math.max(0, time - Date.now() - 3));
      while (Date.now() < time);
      if (acquireLock(${JSON.stringify(folder)} + "/" + round) === undefined) console.log(round);
    }
    console.log("done");
    for await (const _ of Bun.stdin.stream());`;
  const programs = [1, 2, 3].map(() => Bun.spawn([process.execPath, "-e", script], { stdin: "pipe", stdout: "pipe" }));
  const owners: string[] = [];
  const reading = Promise.all(programs.map((program) => collectLines(program.stdout, owners)));
  const isDone = (line: string) => line === "done";
  await until("all programs", () => owners.filter(isDone).length === programs.length);
  // Each one stays alive until all are done, because the lock of a dead program is stale.
  for (const { stdin } of programs) stdin.end();
  await reading;
  expect(owners.filter((line) => !isDone(line)).length).toBe(rounds);
});

test("a lock is held by one process until it is released or its owner is gone", () => {
  expect(acquireLock(file)).toBeUndefined();
  // `bun --watch` restarts the program in the same process.
  expect(acquireLock(file)).toBeUndefined();
  expect(readdirSync(join(folder, "run"))).toEqual(["connection.json.lock"]);
  releaseLock(file);
  for (const stale of ["", '{"pid": 4', JSON.stringify({ pid: process.pid, start_time: 1, boot_id: "another" })]) {
    writeFileSync(`${file}.lock`, stale);
    expect(acquireLock(file)).toBeUndefined();
    expect(JSON.parse(readFileSync(`${file}.lock`, "utf8")).pid).toBe(process.pid);
    releaseLock(file);
  }
  const { startTime } = readProcess(process.ppid) ?? {};
  const other = JSON.stringify({ pid: process.ppid, start_time: startTime, boot_id: readBootId() });
  writeFileSync(`${file}.lock`, other);
  expect(acquireLock(file)).toContain(`the control API with pid ${process.ppid} uses`);
  releaseLock(file);
  expect(readFileSync(`${file}.lock`, "utf8")).toBe(other);
  rmSync(`${file}.lock`);
  expect(readdirSync(join(folder, "run"))).toEqual([]);
  writeFileSync(file, "");
  expect(acquireLock(join(file, "below", "a.json"))).toBeUndefined();
});
