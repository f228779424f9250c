/** The program under `deno serve`, which takes its address from the command line. */
import { expect, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { denoCommand, freePort, PROJECT, runControlApi, untilProgram } from "../support/helpers.ts";

const LIMIT_MS = 120_000;

test.skipIf(process.env.RUNTIME !== "deno")(
  "its address is in the log, with a warning where it is open; one that can't be had ends the program with one line, and leaves nothing, as --parallel does",
  async () => {
    const folder = mkdtempSync(join(tmpdir(), "jupyter-server-"));
    const port = String(await freePort());
    /** HOST says something else, and the folder of each has its connection file. */
    const run = (name: string, host: string, env: Record<string, string> = {}, ...flags: string[]) =>
      runControlApi(
        folder,
        denoCommand(host, port, ...flags),
        {
          HOME: process.env.HOME ?? "",
          HOST: "127.0.0.2",
          LOG_FORMAT: "json",
          CONNECTION_FILE: join(folder, name, "connection.json"),
          ...env,
        },
        PROJECT,
      );
    const first = await run("first", "0.0.0.0");
    try {
      await untilProgram("two lines", first, () => first.log.length === 2);
      const [started, open] = first.log.map((line) => JSON.parse(line));
      expect(started).toMatchObject({ event: "control API started", host: "0.0.0.0", port: Number(port) });
      expect(open).toMatchObject({ event: "control API open", host: "0.0.0.0" });
      for (const [host, problem] of [
        ["0.0.0.0", "is in use by another program"],
        // The first one is of a network for documentation, the second one no address at all.
        ["192.0.2.1", "is not an address of this machine"],
        ["nowhere.invalid", "can't be listened on (failed to lookup address"],
      ] as const) {
        const other = await run(host, host, { STANDBY: "on" });
        expect(await other.ended()).toBe(1);
        expect(other.log).toEqual([expect.stringContaining(`the address of deno serve ${problem}`)]);
        expect(readdirSync(join(folder, host))).toEqual([]);
      }
      const parallel = await run("parallel", "127.0.0.1", {}, "--parallel");
      expect(await parallel.ended()).toBe(1);
      expect(parallel.log[0]).toContain("leave the flag out");
      expect(existsSync(join(folder, "parallel"))).toBe(false);
    } finally {
      const pid = /"pid":(\d+)/.exec(first.log.join("\n"))?.[1];
      if (pid) process.kill(Number(pid), "SIGTERM");
      else first.child.kill();
      await first.ended();
      rmSync(folder, { recursive: true });
    }
  },
  LIMIT_MS,
);
