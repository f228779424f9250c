/** The end of the standby, and what outlives it and a control API: with the program itself. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { existsSync, linkSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readProcess } from "../../lib/procfs.ts";
import { findTree, type Json, NO_TEMPLATE, PROJECT, PYTHON, read, runProgram, until } from "../support/helpers.ts";
import { findTemplate, startForkedKernel } from "../support/kernel.ts";
import { awaitRecovery, runNext } from "../support/killed.ts";

const LIMIT_MS = 90_000;
const MANY_FILES = 100_000;
/** Of one file. ext4 allows for 65,000. */
const MAX_LINKS = 50_000;

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "jupyter-server-"));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const tree = () => findTree(folder);
const runtimeDirs = () => readdirSync(join(folder, "run")).filter((name) => name.includes(".lab-"));

/** Runs a control API that keeps a zygote and an armed JupyterLab, and what these have started. */
async function runArmed(more: Record<string, string> = {}, helpers = 0) {
  const program = await runProgram(folder, { PYTHON, STANDBY: "armed", ...more });
  await until("a zygote, an armed one and their helpers", () => tree().length === 2 + helpers);
  return program;
}

const SPAWN_HELPER = "import subprocess; subprocess.Popen(['sleep', '7777'], start_new_session=True)\n";
/** A configuration file with which each JupyterLab, an armed one too, starts a process that outlives it. */
function writeConfigWithHelper(): string {
  const file = join(folder, "config_with_helper.py");
  writeFileSync(file, read(join(PROJECT, "jupyter_notebook_config.py")) + SPAWN_HELPER);
  return file;
}

function makeManyFiles(notebooks: string): void {
  const pathOf = (file: number) => join(notebooks, `${file}.ipynb`);
  for (let file = 0; file < MANY_FILES; file += 1) {
    const first = file - (file % MAX_LINKS);
    // A link costs half as much as a file of its own.
    if (file === first) writeFileSync(pathOf(file), "");
    else linkSync(pathOf(first), pathOf(file));
  }
}

test(
  "a folder of 100,000 files starts and stops like any other, and the standby leaves with a control API that is told to end, with its helpers and folders",
  async () => {
    // In memory, where there is such a place: a disk would take most of this test's time.
    const notebooks = mkdtempSync(join(existsSync("/dev/shm") ? "/dev/shm" : folder, "notebooks-"));
    try {
      makeManyFiles(notebooks);
      const program = await runArmed({ NOTEBOOK_DIR: notebooks, JUPYTER_CONFIG_FILE: writeConfigWithHelper() }, 1);
      const response = await program.start();
      const server = (await response.json()) as Json;
      expect([response.status, server.message]).toEqual([201, undefined]);
      using client = await startForkedKernel(server);
      expect(await client.run("1+1")).toBe("2");
      await until("an armed one beside it, two helpers, a template and a kernel", () => tree().length === 7);
      program.child.kill("SIGTERM");
      expect(await program.ended()).toBe(0);
      expect(tree()).toEqual([]);
      expect(runtimeDirs()).toEqual([]);
    } finally {
      rmSync(notebooks, { recursive: true });
    }
  },
  LIMIT_MS,
);

const status = async ({ url, token }: Json) => (await fetch(`${url}api/status?token=${token}`)).status;

/** Starts a JupyterLab that is forked from the zygote, with what it is known by. */
async function startForked(program: Awaited<ReturnType<typeof runArmed>>) {
  const server = (await (await program.start({ "base-url": "/forked" })).json()) as Json;
  expect(server.start_kind).toBe("standby");
  return { server, zygote: readProcess(server.pid)?.ppid ?? 0 };
}

test(
  "a forked JupyterLab outlives a control API that is killed, without its zygote, and the next one keeps it; when it is killed too its forked kernels and their template end soon, whoever watches",
  async () => {
    const program = await runArmed();
    const { server, zygote } = await startForked(program);
    using client = await startForkedKernel(server);
    await until("an armed one beside it, a template and a kernel", () => tree().length === 5);
    program.child.kill("SIGKILL");
    await program.ended();
    await until("the end of the standby", () => tree().length === 3);
    expect(readProcess(zygote)).toBeUndefined();
    const next = await runProgram(folder, { ...program.env, STANDBY: "off" });
    await next.ready();
    const recovered = (await awaitRecovery(next)).body;
    expect(recovered).toMatchObject({ state: "running", pid: server.pid });
    expect(await status(recovered)).toBe(200);
    expect(await client.run("1+1")).toBe("2");
    expect(tree()).toContain(findTemplate(server) ?? 0);
    next.child.kill("SIGKILL");
    await next.ended();
    process.kill(server.pid, "SIGKILL");
    await until("the end of all", () => tree().length === 0);
  },
  LIMIT_MS,
);

test(
  "a forked JupyterLab outlives a control API that is killed, whose zygote is stopped, and the next one keeps it and ends the standby",
  async () => {
    writeFileSync(join(folder, "sitecustomize.py"), SPAWN_HELPER);
    const more = { JUPYTER_CONFIG_FILE: writeConfigWithHelper(), PYTHONPATH: folder };
    const program = await runArmed({ ...NO_TEMPLATE, ...more }, 2);
    const before = tree();
    const { server, zygote } = await startForked(program);
    const kept = () => tree().filter((pid) => before.includes(pid));
    await until("the end of the one that was armed for other options, and of its helper", () => kept().length === 2);
    await until("an armed one beside it, and three helpers", () => tree().length === 6);
    // Without a control API a stopped zygote can't leave, nor what waits for it.
    process.kill(zygote, "SIGSTOP");
    program.child.kill("SIGKILL");
    await program.ended();
    await using next = await runNext(folder, { ...program.env, STANDBY: "off" });
    const recovered = (await next.settled()).body;
    expect(recovered).toMatchObject({ state: "running", pid: server.pid });
    await until("the end of the standby, and of its helpers", () => tree().length === 2);
    expect(readProcess(zygote)).toBeUndefined();
    expect(await status(recovered)).toBe(200);
    await next.stop();
    expect(tree()).toEqual([]);
  },
  LIMIT_MS,
);
