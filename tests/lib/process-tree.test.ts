/** Process trees that do what they can not to be found. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, openSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { endProcessTree } from "../../lib/process-tree.ts";
import { findProcessTree, readProcess } from "../../lib/procfs.ts";
import { PROJECT, PYTHON } from "../support/helpers.ts";

const FORK_LOOP = join(PROJECT, "tests", "support", "fork_loop.py");

let folder: string;
let mark: string;
/** What the loop writes. It is in no single look at `/proc`, but all its processes hold this open. */
let output: Promise<string>;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "tree ü-"));
  mark = `MARK=${folder}`;
});
afterEach(async () => {
  writeFileSync(join(folder, "stop"), "");
  await output;
  rmSync(folder, { recursive: true });
});

/** A loop of forks whose first process has ended. */
async function startForkLoop(kind: "same" | "new"): Promise<number> {
  const child = Bun.spawn([PYTHON, FORK_LOOP, kind, join(folder, "stop")], {
    env: { PATH: process.env.PATH ?? "", MARK: folder },
    stdin: "ignore",
    stdout: "pipe",
    stderr: openSync("/dev/null", "w"),
    detached: true,
  });
  output = new Response(child.stdout).text();
  await child.exited;
  return child.pid;
}

test.each(["same", "new"] as const)("a process that forks and ends in a loop is ended: %s session", async (kind) => {
  const pid = await startForkLoop(kind);
  expect(readProcess(pid)).toBeUndefined();
  const root = {
    pid,
    ppid: process.pid,
    group: pid,
    session: pid,
    terminal: 0,
    foreground: -1,
    cpuTicks: 0,
    startTime: 1,
  };
  const find = () => findProcessTree([root], mark);
  expect(await endProcessTree(find, { graceful: true, timeoutMs: 8000, mark })).toEqual({ processes: [] });
  expect(await output).toBe("ready\n");
});
