/** What a control API finds of the one before it, which was killed. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import {
  appendFileSync,
  chownSync,
  existsSync,
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
import { logIn, statusWith } from "../support/cookies.ts";
import { findTree, type Json, NO_TEMPLATE, PYTHON, pidsWith, runProgram, until } from "../support/helpers.ts";
import { startKernel } from "../support/kernel.ts";
import { type Killed, killOne, killTogether, runNext } from "../support/killed.ts";
import { TestServer } from "../support/test-server.ts";

const LAB_LIMIT_MS = 60_000;
/** As many as the tests below take, and a stand-in for one that is tried again. */
const LABS = 2;
const KILLED = 23;

const root = mkdtempSync(join(tmpdir(), "jupyter-server-"));
const makeFolder = () => mkdtempSync(join(root, "one-"));
const fileIn = (folder: string) => join(folder, "run", "connection.json");
const runtimeFolders = (folder: string) => readdirSync(join(folder, "run")).filter((name) => name.includes(".lab-"));

/** Servers of control APIs that were killed: real ones, and stand-ins with three processes each. */
let labs: Killed[];
let killed: Killed[];
beforeAll(async () => {
  const real = () => ({ folder: makeFolder(), more: { PYTHON, ...NO_TEMPLATE } });
  const standIn = () => ({ folder: makeFolder(), body: { env: { FAKE_MODE: "tree" } } });
  const all = await killTogether([...Array.from({ length: LABS }, real), ...Array.from({ length: KILLED }, standIn)]);
  labs = all.slice(0, LABS);
  killed = all.slice(LABS);
}, LAB_LIMIT_MS);
afterAll(() => {
  for (const pid of pidsWith(root)) process.kill(pid, "SIGKILL");
  rmSync(root, { recursive: true, force: true });
});

/** Takes one of them: each test has its own. */
function take(from: Killed[]) {
  const one = from.pop();
  if (!one) throw new Error("There are fewer of them than the tests take");
  return { ...one, file: fileIn(one.folder) };
}

test(
  "JupyterLab, its kernels, its log and all that is known of it outlive the control API, and its cookies outlive both",
  async () => {
    const folder = makeFolder();
    const options = { token: "kept", "base-url": "/user/x" };
    const { server, env } = await killOne(folder, options, { PYTHON });
    using client = await startKernel(server);
    expect(await client.run("answer = 42; answer")).toBe("42");
    const cookie = await logIn(server);
    await using next = await runNext(folder, env);
    const { status, body } = await next.settled();
    expect(status).toBe(200);
    expect({ ...body, last_exit: null }).toEqual({ ...server, last_exit: null });
    expect(await client.run("answer")).toBe("42");
    expect(next.log.join()).toContain(`server recovered pid=${server.pid}`);
    expect(next.log.join() + (await next.readOutput()).join()).not.toContain("kept");
    expect((await next.start(options)).status).toBe(200);
    expect((await next.start()).status).toBe(409);
    process.kill(server.pid, "SIGKILL");
    const restarted = await until("the restart", async () => {
      const answer = await next.show();
      return answer.status === 200 && answer.body.pid !== server.pid ? answer.body : undefined;
    });
    expect(restarted).toMatchObject({ token: "kept", url: server.url, restarts: 1, last_exit: { code: "crashed" } });
    expect(restarted.last_exit.log_tail.join()).toContain("Kernel started");
    expect(await statusWith(restarted, cookie)).toBe(200);
    expect((await next.stop()).status).toBe(200);
    expect(findTree(folder)).toEqual([]);
    expect(runtimeFolders(folder)).toEqual([]);
  },
  LAB_LIMIT_MS,
);

test("a recovered JupyterLab that ends with code 0 is a stop, not a crash", async () => {
  const { folder, server, env } = take(labs);
  await using next = await runNext(folder, env);
  expect((await next.settled()).status).toBe(200);
  process.kill(server.pid, "SIGTERM");
  const { body } = await until("the stop", async () => {
    const answer = await next.show();
    return answer.status === 404 ? answer : undefined;
  });
  expect(body).toMatchObject({ state: "stopped", last_exit: { code: null } });
});

test("it is stopped by a DELETE as any other", async () => {
  const { folder, file, env } = take(killed);
  await until("a tree", () => findTree(folder).length === 3);
  await using next = await runNext(folder, env);
  expect((await next.settled()).status).toBe(200);
  expect((await next.stop()).status).toBe(200);
  expect(findTree(folder)).toEqual([]);
  expect(existsSync(file)).toBe(false);
});

test("it is stopped also by a DELETE, or an end of the program, that comes during the recovery", async () => {
  {
    const { folder, env } = take(killed);
    await using next = await TestServer.start(env, makeFolder());
    expect((await next.stop()).status).toBe(200);
    expect(findTree(folder)).toEqual([]);
    expect((await next.show()).body.state).toBe("stopped");
    expect((await next.start()).status).toBe(201);
  }
  const { folder, env } = take(killed);
  const next = await runNext(folder, env);
  await next[Symbol.asyncDispose]();
  expect(findTree(folder)).toEqual([]);
});

describe("is ended, or was, and the state says so:", () => {
  test("a JupyterLab that is gone, with what it left", async () => {
    const { folder, file, server, env } = take(killed);
    await until("a tree", () => findTree(folder).length === 3);
    process.kill(server.pid, "SIGKILL");
    await using next = await runNext(folder, env);
    const { status, body } = await next.settled();
    expect([status, body.state, body.last_exit.code]).toEqual([404, "failed", "crashed"]);
    expect(body.last_exit.message).toContain(`pid ${server.pid}`);
    expect(findTree(folder)).toEqual([]);
    expect(runtimeFolders(folder)).toEqual([]);
    expect(existsSync(file)).toBe(false);
    expect((await next.start()).status).toBe(201);
  });

  test("one whose folder was removed while it was frozen", async () => {
    const { folder, server, env } = take(killed);
    process.kill(server.pid, "SIGSTOP");
    rmSync(join(folder, "run"), { recursive: true });
    await using next = await runNext(folder, env);
    expect((await next.settled()).body.state).toBe("stopped");
    expect(findTree(folder)).toEqual([]);
    expect((await next.start()).status).toBe(201);
  });

  test(
    "one that does not answer, and a visit starts it again",
    async () => {
      const { folder, server, env } = take(killed);
      process.kill(server.pid, "SIGSTOP");
      await using next = await runNext(folder, { ...env, PROXY: "true" }, { recoveryProbeMs: 200 });
      const { body } = await next.settled();
      expect(body.last_exit.message).toContain("did not answer: it was ended");
      expect(findTree(folder)).toEqual([]);
      await fetch(`${next.url}/lab`, { headers: { accept: "text/html" } });
      expect((await next.show()).body.token).toBe(server.token);
    },
    LAB_LIMIT_MS,
  );

  test.each([
    ["another", true],
    ["one that does not exist", false],
  ])("one whose folder is not inside NOTEBOOK_DIR any more, which is %s now", async (_title, exists) => {
    const { folder, file, env } = take(killed);
    const NOTEBOOK_DIR = exists ? makeFolder() : join(folder, "nowhere");
    await using next = await runNext(folder, { ...env, NOTEBOOK_DIR });
    expect((await next.settled()).body.last_exit).toMatchObject({
      code: "invalid_options",
      message: expect.stringContaining("NOTEBOOK_DIR"),
    });
    expect(findTree(folder)).toEqual([]);
    expect(existsSync(file)).toBe(false);
  });

  test(
    "one that does not know its secret",
    async () => {
      const { folder, file, env } = take(labs);
      const record = JSON.parse(readFileSync(file, "utf8"));
      writeFileSync(file, JSON.stringify({ ...record, supervisor: { ...record.supervisor, secret: "another" } }));
      await using next = await runNext(folder, env);
      const { body } = await next.settled();
      expect(body.last_exit.message).toContain("answered with status 403");
      expect(existsSync(file)).toBe(false);
      expect(findTree(folder)).toEqual([]);
    },
    LAB_LIMIT_MS,
  );
});

test("one that is gone as well does not fail a start that comes at once, and a visit starts it again as it was", async () => {
  const kill = async ({ folder }: Killed) => {
    for (const pid of findTree(folder)) process.kill(pid, "SIGKILL");
    await until("its end", () => findTree(folder).length === 0);
  };
  {
    const one = take(killed);
    await kill(one);
    await using next = await runNext(one.folder, one.env);
    expect((await next.start({ "base-url": "/other" })).status).toBe(201);
  }
  const one = take(killed);
  await kill(one);
  await using next = await runNext(one.folder, { ...one.env, PROXY: "true" });
  expect((await fetch(`${next.url}/lab`, { headers: { accept: "text/html" } })).status).toBe(200);
  const { body } = await next.show();
  expect([body.token, body.options]).toEqual([one.server.token, one.server.options]);
  // What was not asked for is as the configuration has it by then.
  const other = take(killed);
  await kill(other);
  const NOTEBOOK_DIR = join(other.folder, "elsewhere");
  await using last = await runNext(other.folder, { ...other.env, PROXY: "true", NOTEBOOK_DIR, JUPYTER_TOKEN: "newer" });
  expect((await fetch(`${last.url}/lab`, { headers: { accept: "text/html" } })).status).toBe(200);
  const shown = (await last.show()).body;
  expect(shown).toMatchObject({ token: "newer", notebook_dir: NOTEBOOK_DIR, options: other.server.options });
  // And what it refuses by then is forgotten.
  const refused = take(killed);
  await kill(refused);
  const record = JSON.parse(readFileSync(refused.file, "utf8"));
  record.supervisor.options.body = { "base-url": "/docs" };
  writeFileSync(refused.file, JSON.stringify(record));
  await using fresh = await runNext(refused.folder, { ...refused.env, PROXY: "true" });
  expect((await fetch(`${fresh.url}/lab`, { headers: { accept: "text/html" } })).status).toBe(200);
  expect((await fresh.show()).body.options).toEqual({});
  expect(fresh.log.join()).toContain("last start forgotten");
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
    const { folder, file, env } = take(killed);
    const record = change(JSON.parse(readFileSync(file, "utf8")));
    writeFileSync(file, JSON.stringify(record.pid === process.pid ? { ...record, pid: other.pid } : record));
    await using next = await runNext(folder, env);
    expect((await next.settled()).body.last_exit.message).toContain("had ended before the control API restarted");
    expect(other.exitCode).toBeNull();
    expect(findTree(folder)).toEqual([]);
    other.kill();
  });

  test.each([
    ["half-written", (text: string) => text.slice(0, 200), "is not complete JSON"],
    ["empty", () => "", "is not complete JSON"],
    ["of another format", () => '{"pid": 1}', "has another format"],
  ])("a file that is %s", async (_title, change, reason) => {
    const { folder, file, env } = take(killed);
    writeFileSync(file, change(readFileSync(file, "utf8")));
    await using next = await runNext(folder, env);
    expect((await next.settled()).body.state).toBe("stopped");
    expect(next.log.filter((line) => line.includes("connection file not usable")).join()).toContain(reason);
    expect(findTree(folder)).toEqual([]);
  });
});

test("a record can name no folder but its own", async () => {
  const { folder, file, env } = take(killed);
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
  await using next = await runNext(folder, env);
  expect((await next.settled()).body.state).toBe("stopped");
  expect(findTree(folder)).toEqual([]);
});

test.skipIf(process.getuid?.() !== 0)("a record of somebody else is not believed", async () => {
  const { file } = take(killed);
  expect(readConnection(file)).toBeObject();
  chownSync(file, 12345, 12345);
  expect(readConnection(file)).toBe(`${file} belongs to another user`);
});

test("a start that was under way is ended with all of it", async () => {
  const folder = makeFolder();
  const first = await runProgram(folder, {});
  await first.ready();
  void first.start({ env: { FAKE_MODE: "hang" } }).catch(() => {});
  await until("the child", () => findTree(folder).length > 0);
  first.child.kill("SIGKILL");
  await first.ended();
  await using next = await runNext(folder, first.env);
  expect((await next.settled()).body.state).toBe("stopped");
  expect(findTree(folder)).toEqual([]);
  expect(runtimeFolders(folder)).toEqual([]);
});

test("what an earlier server has written is not shown by the next control API", async () => {
  const folder = makeFolder();
  const first = await runProgram(folder);
  await first.ready();
  await first.start({ env: { FAKE_MODE: "tree", SECRET_OF_OLD: "an-earlier-secret" } });
  appendFileSync(join(folder, "run", "jupyterlab.log"), "a child prints an-earlier-secret\n");
  await fetch(first.url, { method: "DELETE" });
  await first.start({ token: "a-later-secret" });
  appendFileSync(join(folder, "run", "jupyterlab.log"), "a child prints a-later-secret\n");
  first.child.kill("SIGKILL");
  await first.ended();
  await using next = await runNext(folder, first.env);
  await next.settled();
  expect((await next.ask("GET", "/api/servers/logs")).text).toBe("fake mode=ok\na child prints ***\n");
});

test("the file and its folder are its owner's alone", async () => {
  const { folder, file } = take(killed);
  expect(statSync(file).mode & 0o777).toBe(0o600);
  expect(statSync(join(folder, "run")).mode & 0o777).toBe(0o700);
});
