/** `bun run dev`: what a saved file does to the program, and to the JupyterLab that it has started. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { appendFileSync, cpSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import manifest from "../../package.json" with { type: "json" };
import {
  findTree,
  NO_TEMPLATE,
  PROJECT,
  PYTHON,
  pidsWith,
  runControlApi,
  until,
  untilProgram,
} from "../support/helpers.ts";

const LIMIT_MS = 60_000;
const SOURCES = /^(http|lab|lib|page|python|[a-z]+\.ts|package\.json|jupyter_notebook_config\.py)$/;

let folder: string;
let source: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "jupyter-server-"));
  source = join(folder, "source");
  mkdirSync(source);
  for (const name of readdirSync(PROJECT).filter((name) => SOURCES.test(name)))
    cpSync(join(PROJECT, name), join(source, name), { recursive: true });
  symlinkSync(join(PROJECT, "node_modules"), join(source, "node_modules"));
});
afterEach(() => {
  for (const pid of pidsWith(`${folder}/run/connection.json`)) process.kill(pid, "SIGKILL");
  rmSync(folder, { recursive: true, force: true });
});

/** Everything alive that the program has started, its standby included. */
const tree = () => findTree(folder);

test(
  "a saved file starts the program anew in its process, and its JupyterLab is recovered",
  async () => {
    const [, flags = ""] = /bun (.*) index\.ts$/.exec(manifest.scripts.dev) ?? [];
    expect(flags).toContain("--watch");
    const command = [process.execPath, ...flags.split(" "), join(source, "index.ts")];
    const more = { PYTHON, ...NO_TEMPLATE, STANDBY: "armed", LOG_LEVEL: "debug" };
    const program = await runControlApi(folder, command, more);
    const { child, log, ready, start, show, ended } = program;
    await ready();
    const standbys = () => log.filter((line) => line.includes("standby ready")).length;
    const started = (await (await start({ token: "kept" })).json()) as { pid: number };
    // The zygote and the armed process, without JupyterLab.
    const warm = () => tree().filter((pid) => pid !== started.pid);
    await untilProgram("a zygote and an armed process", program, () => warm().length === 2 && standbys() >= 2);

    const [before, old] = [standbys(), warm()];
    appendFileSync(join(source, "app.ts"), "\n");
    const programs = () => log.filter((line) => line.includes("control API started"));
    await untilProgram("the next program", program, () => programs().length === 2);
    const recovered = await untilProgram("the recovery", program, async () => {
      const answer = await show().catch(() => undefined);
      return answer?.status === 200 ? answer.body : undefined;
    });
    expect(recovered).toMatchObject({ pid: started.pid, token: "kept", restarts: 0 });
    expect(log.join("\n")).toContain(`server recovered pid=${started.pid}`);
    // By default Bun emits SIGTERM before it starts the program anew, and that would stop JupyterLab.
    expect(log.join("\n")).not.toContain("control API ending");
    for (const line of programs()) expect(line).toContain(`pid=${child.pid}`);
    // The standby of the program before is ended: it would be nobody's.
    await untilProgram("warm processes of its own", program, () => standbys() === before + 2);
    await until("nothing of the program before", () => warm().length === 2);
    expect(warm().filter((pid) => old.includes(pid))).toEqual([]);

    child.kill("SIGTERM");
    expect(await ended()).toBe(0);
    expect(tree()).toEqual([]);
  },
  LIMIT_MS,
);
