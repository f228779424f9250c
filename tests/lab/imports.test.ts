/** Deferred imports are complete when they are used. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { copyFileSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PROJECT, PYTHON } from "../support/helpers.ts";

const LIMIT_MS = 30_000;

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "imports-"));
  copyFileSync(join(PROJECT, "python", "imports.py"), join(folder, "imports.py"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** What a Python beside a copy of the file prints. */
function run(code: string): string {
  const { PATH = "", HOME = "" } = process.env;
  const { exitCode, stdout, stderr } = Bun.spawnSync([PYTHON, "-c", code], { cwd: folder, env: { PATH, HOME } });
  expect(stderr.toString()).toBe("");
  expect(exitCode).toBe(0);
  return stdout.toString().trim();
}

const AFTER_IMPORT = "import imports, sys; imports.import_jupyterlab()\n";

test(
  "a deferred package is imported at its first use, whole and once",
  () => {
    const facts = run(`${AFTER_IMPORT}
print("requests.sessions" in sys.modules, "arrow.arrow" in sys.modules)
import requests.adapters
import requests
print(requests.adapters is sys.modules["requests.adapters"], requests.adapters.HTTPAdapter is requests.sessions.HTTPAdapter)
print(requests.adapters.__spec__.loader.__class__.__name__)
from arrow import get
print(get("2026-11-24").year)
from isoduration import parse_duration
print(parse_duration("P1D").date.days)`);
    expect(facts.split("\n")).toEqual(["False False", "True True", "SourceFileLoader", "2026", "1"]);
  },
  LIMIT_MS,
);
