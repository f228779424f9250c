/** The program as a whole: its exit codes, its signals, and what outlives it. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { chmodSync, copyFileSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { VARIABLES } from "../../config.ts";
import manifest from "../../package.json" with { type: "json" };
import { bundleProgram, findTree, PROJECT, runControlApi, runProgram, until } from "../support/helpers.ts";

/** Those that can't be meant for it. */
// biome-ignore format: a list of names reads best in rows
const IGNORED_SIGNALS = [
  "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGIO", "SIGPIPE", "SIGWINCH",
] as const;

type Program = Awaited<ReturnType<typeof runProgram>>;

// A folder for each test: a failed test leaves its connection file, and the file's lock, to no other.
let folder: string;
let programs: Program[];
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "jupyter-server-"));
  programs = [];
});
afterEach(async () => {
  for (const { child, ended } of programs) {
    child.kill("SIGKILL");
    await ended();
  }
  for (const pid of tree()) process.kill(pid, "SIGKILL");
  rmSync(folder, { recursive: true, force: true });
});

const tree = () => findTree(folder);

/** Runs `bun index.ts` as a user does, in the folder of the test. */
async function run(more: Record<string, string> = {}): Promise<Program> {
  const program = await runProgram(folder, more);
  programs.push(program);
  return program;
}

test("a bad configuration ends it with 78 and a line for each problem, and fails its test at once, with its log", async () => {
  const { log, ready, ended } = await run({
    PORT: "80.5",
    STANDBY: "always",
    STOP_TIMEOUT_S: "0",
    API_TOKEN: "a secret",
  });
  expect(await ended()).toBe(78);
  expect(log.map((line) => line.split(" ")[0])).toEqual(["PORT", "API_TOKEN", "STANDBY", "STOP_TIMEOUT_S"]);
  expect(log.join()).toContain('PORT must be a whole number from 1 to 65535, got "80.5"');
  expect(log.join()).not.toContain("a secret");
  await expect(ready()).rejects.toThrow(/ended with 78 before: the first answer\nPORT must be/);
});

test("an address that is taken ends it with one line that says so; who has it goes on, also at signals without a meaning", async () => {
  const { child, env, ready, show, start, ended } = await run();
  await ready();
  const second = await run({ PORT: env.PORT ?? "", CONNECTION_FILE: join(folder, "other.json") });
  expect(await second.ended()).toBe(1);
  expect(second.log).toEqual([expect.stringContaining(`127.0.0.1:${env.PORT} is in use by another program`)]);
  // The first one is of a network for documentation, the second one no address at all.
  for (const HOST of ["192.0.2.1", "nowhere.invalid"]) {
    const third = await run({ HOST, CONNECTION_FILE: join(folder, "third.json") });
    expect(await third.ended()).toBe(1);
    expect(third.log).toEqual([
      expect.stringMatching(new RegExp(`${HOST}:\\d+ (is not an address|can't be listened on)`)),
    ]);
  }
  const { pid } = (await (await start()).json()) as { pid: number };
  for (const signal of IGNORED_SIGNALS) child.kill(signal);
  const { status, body } = await show();
  expect([status, body.pid]).toEqual([200, pid]);
  child.kill("SIGTERM");
  expect(await ended()).toBe(0);
});

test.each(["SIGINT", "SIGHUP", "SIGQUIT"] as const)(
  "%s stops JupyterLab and ends with 0, also where it comes twice at once, as Ctrl-C through `bun run`",
  async (signal) => {
    const { child, log, ready, start, ended } = await run();
    await ready();
    expect((await start({ env: { FAKE_MODE: "tree" } })).status).toBe(201);
    await until("a tree", () => tree().length === 3);
    child.kill(signal);
    await until("the end", () => log.some((line) => line.includes("control API ending")));
    child.kill(signal);
    expect(await ended()).toBe(0);
    expect(tree()).toEqual([]);
    expect(log.at(-1)).toContain("server stopped");
  },
);

test("while it ends it is not ready, starts nothing, and a second signal kills at once", async () => {
  const { child, url, ready, start, ended } = await run({ STOP_TIMEOUT_S: "60" });
  await ready();
  await start({ env: { FAKE_MODE: "stubborn" } });
  child.kill("SIGTERM");
  const readiness = url.replace("api/servers/", "health/ready");
  await until("not ready", async () => (await fetch(readiness)).status === 503);
  const refused = await start();
  expect([refused.status, ((await refused.json()) as { code: string }).code]).toEqual([503, "shutting_down"]);
  child.kill("SIGINT");
  expect(await ended()).toBe(130);
  await until("nothing left", () => tree().length === 0);
});

test("SIGTERM stops JupyterLab and ends with 0; it has logged one JSON line an event and nothing else, warned that it is open to anybody, and passed JupyterLab's output on", async () => {
  const { child, log, output, ready, start, ended } = await run({ LOG_FORMAT: "json", HOST: "0.0.0.0" });
  await ready();
  expect((await start({ token: "kept-from-the-log", env: { FAKE_MODE: "tree" } })).status).toBe(201);
  await until("a tree, and output", () => tree().length === 3 && output.includes("fake mode=tree"));
  child.kill("SIGTERM");
  expect(await ended()).toBe(0);
  expect(tree()).toEqual([]);
  const events = log.map((line) => JSON.parse(line));
  expect(events.map(({ event }) => event)).toEqual([
    "control API started",
    "control API open",
    "server starting",
    "server running",
    "control API ending",
    "server stopping",
    "server stopped",
  ]);
  expect(log.join() + output.join()).not.toContain("kept-from-the-log");
  expect(output[0]).toContain("fake");
});

test("a LOG_FILE that standard output is appended to has each line once", async () => {
  const file = join(folder, "all.log");
  const command = ["sh", "-c", 'exec "$0" "$1" >>"$LOG_FILE"', process.execPath, join(PROJECT, "index.ts")];
  const program = await runControlApi(folder, command, { LOG_FILE: file });
  programs.push(program);
  await program.ready();
  await program.start();
  await until("the output", async () => (await (await fetch(`${program.url}logs`)).text()).includes("fake mode=ok"));
  program.child.kill("SIGTERM");
  expect(await program.ended()).toBe(0);
  expect(readFileSync(file, "utf8").match(/^fake mode=ok$/gm)).toHaveLength(1);
});

test("folders that can't be written are named with their owner and our uid", async () => {
  const notebooks = mkdtempSync(join(tmpdir(), "jupyter-notebooks-"));
  chmodSync(notebooks, 0o555);
  chmodSync(folder, 0o777);
  const isRoot = process.getuid?.() === 0;
  const uid = isRoot ? 4321 : process.getuid?.();
  const asNobody = isRoot ? ["setpriv", "--reuid=4321", "--regid=4321", "--clear-groups"] : [];
  const command = [...asNobody, ...(await bundleProgram(folder, "index.ts"))];
  const config = join(folder, "jupyter_notebook_config.py");
  copyFileSync(join(PROJECT, "jupyter_notebook_config.py"), config);
  const program = await runControlApi(folder, command, { NOTEBOOK_DIR: notebooks, JUPYTER_CONFIG_FILE: config });
  programs.push(program);
  const { child, ready, start, ended } = program;
  await ready();
  const answer = await start();
  const body = (await answer.json()) as { code: string; message: string };
  expect([answer.status, body.code]).toEqual([500, "permission_denied"]);
  expect(body.message).toContain(notebooks);
  expect(body.message).toContain(`this process runs as ${uid}:`);
  child.kill("SIGTERM");
  expect(await ended()).toBe(0);
});

test("--help lists every variable, and --version tells the version", () => {
  const ask = (flag: string) => {
    const { exitCode, stdout } = Bun.spawnSync([process.execPath, join(PROJECT, "index.ts"), flag], { cwd: folder });
    return { exitCode, text: stdout.toString() };
  };
  const help = ask("--help");
  expect(help.exitCode).toBe(0);
  for (const { name, meaning } of Object.values(VARIABLES)) {
    expect(help.text).toContain(`  ${name} `);
    expect(help.text).toContain(meaning);
  }
  expect(ask("--version")).toEqual({ exitCode: 0, text: `${manifest.version}\n` });
});
