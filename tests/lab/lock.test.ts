/** One control API on one connection file: its lock, and what becomes of both where somebody removes them. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readConnection } from "../../lab/connection.ts";
import { acquireLock, releaseLock } from "../../lab/lock.ts";
import { readBootId, readProcess } from "../../lib/procfs.ts";
import {
  bundleProgram,
  collectLines,
  findTree,
  type Json,
  PROJECT,
  runControlApi,
  runProgram,
  until,
} from "../support/helpers.ts";

let folder: string;
let file: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "jupyter-server-"));
  file = join(folder, "run", "connection.json");
});
afterEach(() => {
  for (const pid of findTree(folder)) process.kill(pid, "SIGKILL");
  rmSync(folder, { recursive: true, force: true });
});

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
  // At once, so that the other one comes before the renewal. The log file can be there again by then, with the folder.
  rmSync(join(folder, "run"), { recursive: true });
  const lockOfOther = { pid: process.pid, start_time: readProcess(process.pid)?.startTime, boot_id: readBootId() };
  mkdirSync(join(folder, "run"), { recursive: true });
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

test("a lock that can't be removed does not fail a clean stop, and the log tells of it", async () => {
  chmodSync(folder, 0o777);
  const asNobody = process.getuid?.() === 0 ? ["setpriv", "--reuid=4321", "--regid=4321", "--clear-groups"] : [];
  const command = [...asNobody, ...(await bundleProgram(folder, "index.ts"))];
  const program = await runControlApi(folder, command);
  await program.ready();
  chmodSync(join(folder, "run"), 0o555);
  program.child.kill("SIGTERM");
  const code = await program.ended();
  chmodSync(join(folder, "run"), 0o700);
  expect(code).toBe(0);
  expect(program.log.at(-1)).toContain(`${file}.lock can't be removed (EACCES)`);
  // It names a process that is gone.
  expect(acquireLock(file)).toBeUndefined();
});

test("of many programs that find a stale lock at the same time exactly one takes it", async () => {
  const [rounds, roundMs, begin] = [100, 15, Date.now() + 1000];
  for (let round = 0; round < rounds; round += 1) writeFileSync(join(folder, `${round}.lock`), "stale");
  const script = `
    const { acquireLock } = await import(${JSON.stringify(join(PROJECT, "lab", "lock.ts"))});
    for (let round = 0; round < ${rounds}; round += 1) {
      const time = ${begin} + round * ${roundMs};
      await Bun.sleep(Math.max(0, time - Date.now() - 1));
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
  releaseLock(file, () => {});
  for (const stale of ["", '{"pid": 4', JSON.stringify({ pid: process.pid, start_time: 1, boot_id: "another" })]) {
    writeFileSync(`${file}.lock`, stale);
    expect(acquireLock(file)).toBeUndefined();
    expect(JSON.parse(readFileSync(`${file}.lock`, "utf8")).pid).toBe(process.pid);
    releaseLock(file, () => {});
  }
  const { startTime } = readProcess(process.ppid) ?? {};
  const other = JSON.stringify({ pid: process.ppid, start_time: startTime, boot_id: readBootId() });
  writeFileSync(`${file}.lock`, other);
  expect(acquireLock(file)).toContain(`the control API with pid ${process.ppid} uses`);
  releaseLock(file, () => {});
  expect(readFileSync(`${file}.lock`, "utf8")).toBe(other);
  rmSync(`${file}.lock`);
  expect(readdirSync(join(folder, "run"))).toEqual([]);
  writeFileSync(file, "");
  expect(acquireLock(join(file, "below", "a.json"))).toBeUndefined();
});
