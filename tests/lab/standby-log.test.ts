/** What a zygote and armed JupyterLabs write before a start: little of it is kept, and whole lines alone once it is cut. */
import { expect, test } from "bun:test";
import { mkdtempSync, rmSync, statSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { StandbyLog } from "../../lab/standby-log.ts";

const KEPT_BYTES = 256 * 1024;

test.each([
  ["nothing is dropped of what is small", "first\nhalf", "first\nhalf"],
  ["a line that is cut is dropped", `tokSECRET${"x".repeat(KEPT_BYTES)}\nlast\n`, "last\n"],
  ["one without an end too", `tokSECRET${"x".repeat(KEPT_BYTES - 3)}`, ""],
])("%s", (_, written, taken) => {
  const folder = mkdtempSync(join(tmpdir(), "standby-log-"));
  const path = join(folder, "log");
  const log = new StandbyLog(path);
  writeSync(log.descriptor, written);
  expect(log.take()).toBe(taken);
  expect(statSync(path).size).toBe(0);
  log.close();
  rmSync(folder, { recursive: true });
});
