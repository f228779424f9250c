/** JupyterLab's stand-in in a mode of its own, and what it must not leave. */
import { expect } from "bun:test";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import type { TestServer } from "./test-server.ts";

/** The options of a start in which the stand-in behaves so. */
export const mode = (name: string, more: Record<string, string> = {}) => ({ env: { FAKE_MODE: name, ...more } });

export async function expectNothingLeft(server: TestServer): Promise<void> {
  expect(server.tree()).toEqual([]);
  expect(existsSync(server.env.CONNECTION_FILE ?? "")).toBe(false);
  expect(readdirSync(join(server.folder, "run")).filter((name) => name.includes(".lab-"))).toEqual([]);
}

export async function expectNextStartWorks(server: TestServer): Promise<void> {
  expect((await server.start()).status).toBe(201);
  expect((await server.stop()).status).toBe(200);
}
