/** A JupyterLab whose configuration lets a hub's identity provider decide who comes in. */
import { expect } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { send, withToken } from "./config-files.ts";
import { read } from "./helpers.ts";
import type { Answer, TestServer } from "./test-server.ts";

export const HUB_FILES = {
  ".jupyter/jupyter_server_config.py": readFileSync(join(import.meta.dirname, "hub_config.py"), "utf8"),
};
export const HUB_ENV = { NB_PREFIX: "/notebook/ns/name", PUBLIC_URL: "https://Hub.example.org/x" };
/** Its base URL is its own. */
export const HUB_OPTIONS = { "base-url": "/notebook/ns/name" };
export const HUB_TITLE =
  "a hub's identity provider decides who comes in, and the control API's own secret opens no other way";
/** What lets the control API in. */
export const secretOf = (api: TestServer): string =>
  JSON.parse(read(join(api.folder, "run", "connection.json"))).supervisor.secret;

/** Checks the answer of a start with the hub's configuration. */
export async function checkHub(api: TestServer, { status, body }: Answer, kind: string): Promise<void> {
  expect([status, body.start_kind]).toEqual([201, kind]);
  expect(body.warnings).toEqual([]);
  const codes = (headers: Record<string, string>, method?: "DELETE") =>
    Promise.all(["api/me", "api/contents", "api/kernels", "lab"].map((path) => send(body, path, headers, method))).then(
      (answers) => answers.map((answer) => answer.status),
    );
  expect(await codes({ "x-forwarded-user": "owner" })).toEqual([200, 200, 200, 200]);
  expect(await codes({ "x-forwarded-user": "stranger" })).toEqual([200, 403, 403, 200]);
  const header = "x-jupyter-server-supervisor";
  const secret = secretOf(api);
  expect(secret).toMatch(/^[0-9a-f]{48}$/);
  const closed = [403, 403, 403, 302];
  for (const wrong of ["", " ", secret.slice(1), `${secret}0`, secret.toUpperCase().replace(/\d/g, "A"), body.token])
    expect([wrong, ...(await codes({ [header]: wrong }))]).toEqual([wrong, ...closed]);
  expect(await codes(withToken(body))).toEqual(closed);
  expect((await send(body, `api/me?${header}=${secret}&token=${secret}`)).status).toBe(403);
  expect((await send(body, "api/me", { authorization: `token ${secret}` })).status).toBe(403);
  expect(await codes({ [header]: secret })).toEqual([200, 200, 200, 200]);
  // A request without a cookie that changes something, as those of a stop are.
  expect((await send(body, "api/kernels/none", { [header]: secret }, "DELETE")).status).toBe(404);
  for (const [host, code] of [
    ["hub.example.org", 200],
    ["inside.example.org", 200],
    ["evil.example.org", 403],
  ] as const)
    expect([host, (await send(body, "api/me", { host, "x-forwarded-user": "owner" })).status]).toEqual([host, code]);
  const activity = await api.ask("GET", "/api/servers/activity");
  expect(activity.body).toMatchObject({ busy: false, unknown: null });
  for (const text of [(await api.readOutput()).join("\n"), api.log.join("\n"), (await api.show()).text])
    expect(text).not.toContain(secret);
}
