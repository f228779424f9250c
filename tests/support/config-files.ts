/** Jupyter's configuration files for a test, in a home folder that is a control API's own. */
import { mkdirSync, mkdtempSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { ask } from "../../lab/client.ts";
import { type Json, PYTHON, TestServer, until } from "./helpers.ts";

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
