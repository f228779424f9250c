/** Jupyter's configuration files for a test, in a home folder that is a control API's own. */

import { expect } from "bun:test";
import { mkdirSync, mkdtempSync, symlinkSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { ask } from "../../lab/client.ts";
import { type Json, PYTHON, read, until } from "./helpers.ts";
import { type Answer, TestServer } from "./test-server.ts";

export type Files = Record<string, string | Uint8Array>;

/** Writes files below a folder. The time of an edit differs from that of the edit before, whatever the clock says. */
export function write(folder: string, files: Files): void {
  for (const [name, content] of Object.entries(files)) {
    const path = join(folder, name);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, content);
    const time = Date.now() / 1000 + Math.random();
    utimesSync(path, time, time);
  }
}

/** A control API whose home folder has these files; HOME in a value of the environment is that folder. */
export async function startApi(files: Files, env: Record<string, string> = {}): Promise<TestServer> {
  const folder = mkdtempSync(join(tmpdir(), "jupyter-config-"));
  write(folder, files);
  const own = Object.fromEntries(Object.entries(env).map(([name, value]) => [name, value.replace("HOME", folder)]));
  return await TestServer.start({ PYTHON, HOME: folder, ...own }, folder);
}

/** Waits for what `STANDBY` keeps, so that the next start has that kind. */
export async function warmUp(api: TestServer): Promise<void> {
  const count = { off: 0, on: 1, armed: 2 }[api.env.STANDBY ?? "off"];
  await until(`a standby of ${count}`, () => {
    // What could not be armed with a file that the test has mended since is not armed again by itself.
    api.prepare();
    return api.standbyPids().length === count;
  });
}

/** Sends JupyterLab a request at its address, whatever its certificate. */
export function send(
  server: Json,
  path: string,
  headers: Record<string, string> = {},
  method: "GET" | "DELETE" = "GET",
) {
  const url = `${server.secure ? "https" : "http"}://127.0.0.1:${server.port}${server.base_url}${path}`;
  return ask(url, { method, headers, timeoutMs: 10_000, tls: { rejectUnauthorized: false } });
}

export const withToken = (server: Json) => ({ authorization: `token ${server.token}` });

/** The lines that a program prints. */
export function run(...command: string[]): string[] {
  const { exitCode, stdout, stderr } = Bun.spawnSync(command);
  if (exitCode !== 0) throw new Error(stderr.toString());
  return stdout.toString().trim().split("\n");
}

/**
 * Makes an environment of Python with the packages of the tests' own one, and returns its folder for more packages. Its user
 * can install some in a home folder, too.
 */
export function makeEnvironment(prefix: string): string {
  const packages = run(PYTHON, "-c", "import site; print('\\n'.join(site.getsitepackages()))").join("\n");
  run(PYTHON, "-m", "venv", "--without-pip", "--system-site-packages", prefix);
  const [own = ""] = new Bun.Glob("lib/python*/site-packages").scanSync({ cwd: prefix, onlyFiles: false });
  write(join(prefix, own), { "all.pth": packages });
  symlinkSync(join(dirname(dirname(PYTHON)), "share"), join(prefix, "share"));
  return join(prefix, own);
}

/** Prints a start's secret to both outputs, and sets all that only the control API may set. */
export const INDISCREET = [
  "import os, sys",
  "for out in (sys.stdout, sys.stderr): print('it is', os.environ.get('A_TOKEN'), file=out)",
  "c = get_config()",
  ...["ServerApp", "NotebookApp", "LabApp"].flatMap((name) => [
    `c.${name}.ip = '0.0.0.0'`,
    `c.${name}.port = 1`,
    `c.${name}.base_url = '/elsewhere/'`,
  ]),
  "c.IdentityProvider.token = 'theirs'",
  "c.PasswordIdentityProvider.token = 'theirs'",
].join("\n");
export const INDISCREET_TITLE =
  "no secret is in the log file, whatever prints it, and a configuration file can't move JupyterLab, nor its token";

/** Checks a start and a restart with that file, with `of-the-user` as `A_TOKEN`. */
export async function checkIndiscreet(api: TestServer, answers: Answer[], kinds: string[], base: string) {
  expect(answers.map(({ status, body }) => [status, body.start_kind])).toEqual(kinds.map((kind) => [201, kind]));
  const body = answers.at(-1)?.body;
  expect(body).toMatchObject({ hostname: "127.0.0.1", port: Number(api.env.JUPYTER_PORT), base_url: base });
  expect((await send(body, "api/status?token=theirs")).status).toBe(403);
  const log = read(join(api.folder, "run", "jupyterlab.log"));
  // An armed process that no start has used has written it, too.
  expect(log.match(/it is \*\*\*/g)?.length).toBeGreaterThanOrEqual(4);
  expect(log).not.toContain("of-the-user");
  expect(log).not.toContain(body.token);
}
