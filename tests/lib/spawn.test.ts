/** Spawning on Bun and with node:child_process, and finding and ending a process tree. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { closeSync, mkdtempSync, openSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { endProcessTree } from "../../lib/process-tree.ts";
import { findProcessTree, isAlive, type ProcessInfo, readProcess } from "../../lib/procfs.ts";
import { settlesWithin, spawnWithBun, spawnWithNode } from "../../lib/spawn.ts";
import { collectLines, read, until } from "../support/helpers.ts";

let folder: string;
let stderr: number;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "process-"));
  stderr = openSync(join(folder, "log"), "a");
});
afterAll(() => {
  closeSync(stderr);
  rmSync(folder, { recursive: true, force: true });
});

const env = { PATH: process.env.PATH ?? "", MARK: "" };
const options = (mark = "") => ({ cwd: folder, env: { ...env, MARK: mark }, stderr });

describe.each([
  ["Bun", spawnWithBun],
  ["Node and Deno", spawnWithNode],
])("on %s a child", (_name, spawn) => {
  test("reads, writes, leads a session of its own and ends with its code", async () => {
    const child = await spawn(
      ["sh", "-c", 'read line; echo "got $line"; echo "to the log $line" >&2; exit 7'],
      options(),
    );
    const lines: string[] = [];
    const reading = collectLines(child.output, lines);
    expect(readProcess(child.pid)?.session).toBe(child.pid);
    child.write("an order\n");
    child.closeInput();
    expect(await child.exited).toEqual({ code: 7, signal: null });
    await reading;
    expect(lines).toEqual(["got an order"]);
    expect(read(join(folder, "log"))).toContain("to the log an order");
  });

  test("can be written to before the runtime has heard of its end", async () => {
    const child = await spawn(["cat"], options());
    child.write("read\n");
    process.kill(child.pid, "SIGKILL");
    while (readProcess(child.pid)) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
    child.write("too late\n");
    child.closeInput();
    expect((await child.exited).signal).toBe("SIGKILL");
  });

  test("ends by a signal, and can be signalled and written to when it is gone", async () => {
    const child = await spawn(["sleep", "1000"], options());
    child.signal("SIGTERM");
    expect(await child.exited).toEqual({ code: null, signal: "SIGTERM" });
    await until("it is gone", () => !readProcess(child.pid));
    child.signal("SIGKILL");
    child.write("too late\n");
    child.closeInput();
  });

  test.each(["/nowhere/program", "/etc/passwd"])("that is %s is refused", async (program) => {
    expect(await spawn([program], options()).catch((error) => error.code)).toMatch(/ENOENT|EACCES/);
  });
});

test("a tree is found through parents, sessions and the mark, and swept", async () => {
  const mark = `MARK=${folder}`;
  const script = [
    "setsid sleep 1001 &",
    "(env -u MARK sleep 1002 &)",
    "(setsid sleep 1003 &)",
    "setsid sh -c 'env -u MARK sleep 1004 & wait' &",
    "wait",
  ].join("\n");
  const child = await spawnWithBun(["sh", "-c", script], options(folder));
  const root = readProcess(child.pid);
  const roots = root ? [root] : [];
  const find = () => findProcessTree(roots, mark);
  const tree = await until("six", () => (find().processes.length === 6 ? find().processes : undefined));
  expect(tree.map(({ pid }) => pid)).not.toContain(process.pid);
  child.signal("SIGKILL");
  await child.exited;
  // Without its root a tree is still one: orphans have the session or the mark.
  expect(find().processes).toHaveLength(5);
  expect(await endProcessTree(find, { graceful: true, timeoutMs: 5000, mark })).toEqual({ processes: [] });
  expect(tree.filter(isAlive)).toEqual([]);
});

test("what is deaf, and part of a tree by its parent alone, is swept after the parent's end", async () => {
  const deaf = "trap '' TERM; sleep 1005";
  const child = await spawnWithBun(["sh", "-c", `setsid env -u MARK sh -c "${deaf}" & wait`], options(folder));
  const root = readProcess(child.pid);
  const find = (known: readonly ProcessInfo[]) =>
    findProcessTree([...(root ? [root] : []), ...known], `MARK=${folder}`);
  const tree = await until("three", () => (find([]).processes.length === 3 ? find([]).processes : undefined));
  const survivors = await endProcessTree(find, { graceful: true, timeoutMs: 5000, mark: `MARK=${folder}` });
  expect(survivors).toEqual({ processes: [] });
  expect(tree.filter(isAlive)).toEqual([]);
});

test("settlesWithin tells in time, and takes a rejection for an end", async () => {
  expect(await settlesWithin(new Promise(() => {}), 1)).toBe(false);
  expect(await settlesWithin(Promise.reject(new Error("an end")), 1000)).toBe(true);
});
