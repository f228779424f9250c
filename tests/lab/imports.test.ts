/** Deferred imports are complete when they are used, and a cached pattern is the one that Python would compile. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { copyFileSync, existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PROJECT, PYTHON } from "../helpers.ts";

const LIMIT_MS = 30_000;

let folder: string;
let file: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "imports-"));
  copyFileSync(join(PROJECT, "python", "imports.py"), join(folder, "imports.py"));
  run("import imports; imports.import_jupyterlab(); imports.PatternCache.uninstall()");
  file = run("import imports; print(imports.PATTERNS_FILE)");
}, LIMIT_MS);
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

test("cached patterns equal those that Python compiles", () => {
  const facts = run(`
import imports, re
imports.PatternCache._read()
kept = imports.PatternCache._cached
for (pattern, flags), parts in kept.items():
    fresh = re.compile(pattern, flags)
    ready = re._compiler._sre.compile(pattern, *parts)
    assert ready == fresh and ready.groupindex == fresh.groupindex and ready.groups == fresh.groups, pattern
print(len(kept))`);
  expect(Number(facts)).toBeGreaterThan(200);
});

test(
  "a second import compiles next to nothing, and `re` is itself again after it",
  () => {
    const facts = run(`${AFTER_IMPORT}
import re, _sre
print(len(imports.PatternCache._new))
imports.PatternCache.uninstall()
print(re._compiler._sre is _sre, re._compiler.compile.__module__)`);
    const [count, ...rest] = facts.split("\n");
    expect(Number(count)).toBeLessThan(10);
    expect(rest).toEqual(["True re._compiler"]);
  },
  LIMIT_MS,
);

test.each([
  ["no such file at all", Buffer.from("garbage")],
  ["one of another Python", Buffer.from("c2b302a000", "hex")],
])(
  "a file that is %s is ignored, and written anew",
  (_what, content) => {
    writeFileSync(file, content);
    run(`${AFTER_IMPORT}imports.PatternCache.uninstall()`);
    expect(statSync(file).size).toBeGreaterThan(10_000);
  },
  LIMIT_MS,
);

test(
  "nothing is written where bytecode is not",
  () => {
    rmSync(file);
    run(`${AFTER_IMPORT}sys.dont_write_bytecode = True; imports.PatternCache.uninstall()`);
    expect(existsSync(file)).toBe(false);
  },
  LIMIT_MS,
);

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

test(
  "an SSL context loads the CA certificates at its first use, and is a plain one from then on",
  () => {
    const facts = run(`${AFTER_IMPORT}
import ssl
from tornado import netutil
context = netutil._client_ssl_defaults
print(isinstance(context, ssl.SSLContext), type(context).__name__, context.verify_mode.name, context.check_hostname)
context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="localhost")
print(type(context).__name__, context.get_ca_certs() == ssl.create_default_context().get_ca_certs())
print(type(ssl.create_default_context()).__name__)`);
    expect(facts.split("\n")).toEqual(["True LazyContext CERT_REQUIRED True", "SSLContext True", "SSLContext"]);
  },
  LIMIT_MS,
);
