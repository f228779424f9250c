/** What the tests of the standby share: control APIs that keep one, and configuration files that change. */
import { expect } from "bun:test";
import { appendFileSync, copyFileSync, mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Json, NO_TEMPLATE, PROJECT, PYTHON } from "./helpers.ts";
import { TestServer } from "./test-server.ts";

export const CONFIG = join(PROJECT, "jupyter_notebook_config.py");

/** A control API whose standby is ready. */
export async function prepare(standby: "on" | "armed", more: Record<string, string> = {}): Promise<TestServer> {
  const api = await TestServer.start({ PYTHON, STANDBY: standby, LOG_LEVEL: "debug", ...NO_TEMPLATE, ...more });
  api.prepare();
  await api.standby(standby === "armed" ? 2 : 1);
  return api;
}

/** The status of an answer to a client with this token. */
export const status = async ({ url }: Json, token: string) =>
  (await fetch(`${url}api/status?token=${encodeURIComponent(token)}`)).status;

/** A configuration file that a test may change. */
export function ownConfig(): string {
  const file = join(mkdtempSync(join(tmpdir(), "jupyter-config-")), "jupyter_notebook_config.py");
  copyFileSync(CONFIG, file);
  return file;
}

/** Shows that a JupyterLab has a configuration that was written after the standby was ready. */
export async function checkChangedConfig(api: TestServer, file: string): Promise<void> {
  appendFileSync(file, "c.ServerApp.websocket_ping_interval = 1234\nc.ServerApp.extra_static_paths = ['/changed']\n");
  appendFileSync(file, "c.ServerApp.certfile = ''\nc.ServerApp.allow_origin = 'https://changed.example.org'\n");
  const { body } = await api.start();
  expect(body.start_kind).toBe("standby");
  const { headers } = await fetch(`${body.url}api/status?token=${body.token}`, {
    headers: { origin: "https://changed.example.org" },
  });
  expect(headers.get("access-control-allow-origin")).toBe("https://changed.example.org");
}
