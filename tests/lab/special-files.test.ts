/** Files whose name or content comes from a start, from notebooks or from another process. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ConfigError, parseConfig } from "../../config.ts";
import { readConnection } from "../../lab/connection.ts";
import { deleteGatewayKernels } from "../../lab/gateway-kernels.ts";
import { acquireLock, releaseLock } from "../../lab/lock.ts";
import { readPlainFile } from "../../lib/files.ts";
import { makeEnv, read } from "../support/helpers.ts";
import { TestServer } from "../support/test-server.ts";

const HUGE_BYTES = 3 * 1024 ** 3;

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "special-"));
});
afterEach(() => rmSync(folder, { recursive: true }));

/** What can stand where a file is expected. */
const SPECIALS: [name: string, make: (path: string) => void][] = [
  ["a FIFO", (path) => expect(Bun.spawnSync(["mkfifo", path]).exitCode).toBe(0)],
  ["3 GB", makeHuge],
];

function makeHuge(path: string): void {
  writeFileSync(path, "");
  truncateSync(path, HUGE_BYTES);
}

test.each(SPECIALS)("a certificate file of a start that is %s is refused at once", async (_, make) => {
  await using server = await TestServer.start();
  const path = join(folder, "ca.pem");
  make(path);
  for (const name of ["JUPYTER_GATEWAY_CA_CERTS", "JUPYTER_GATEWAY_CLIENT_KEY", "SSL_CERT_FILE"]) {
    const { status, body } = await server.start({ "gateway-url": "http://127.0.0.1:9", env: { [name]: path } });
    expect([status, body.code]).toEqual([500, "config_error"]);
    expect(body.message).toBe(`${name} must be a plain file of at most 4 MiB; ${path} is not`);
  }
  expect(server.tree()).toEqual([]);
});

test("a device is no file to read", () => {
  expect(() => readPlainFile("/dev/zero")).toThrow("it is not a plain file");
});

test("a connection file that is no plain one is neither read nor written nor removed", async () => {
  const path = join(folder, "connection.json");
  expect(Bun.spawnSync(["mkfifo", path]).exitCode).toBe(0);
  await using server = await TestServer.start({ CONNECTION_FILE: path, LOG_FILE: join(folder, "lab.log") });
  const { status, body } = await server.start();
  expect([status, body.code]).toEqual([500, "permission_denied"]);
  expect(body.message).toBe(`CONNECTION_FILE must be a writable file; ${path} is not a plain file`);
  expect(statSync(path).isFIFO()).toBe(true);
});

test("a log file that is a FIFO is refused", async () => {
  const path = join(folder, "lab.log");
  expect(Bun.spawnSync(["mkfifo", path]).exitCode).toBe(0);
  await using server = await TestServer.start({ LOG_FILE: path });
  const { status, body } = await server.start();
  expect([status, body.code]).toEqual([500, "permission_denied"]);
  expect(body.message).toBe(`LOG_FILE must be a writable file; ${path} is not (EFTYPE)`);
});

test.each(SPECIALS)("a record that is %s is not used", (_, make) => {
  const path = join(folder, "connection.json");
  make(path);
  expect(readConnection(path)).toMatch(/is not a plain file$|is over 8 MiB$/);
});

test("a record with a port that is none is not used", async () => {
  await using server = await TestServer.start();
  await server.start();
  const path = server.env.CONNECTION_FILE ?? "";
  expect(typeof readConnection(path)).toBe("object");
  const record = JSON.parse(read(path));
  for (const port of [0, 65536, 70000]) {
    writeFileSync(path, JSON.stringify({ ...record, port }));
    expect(readConnection(path)).toBe(`${path} has another format`);
  }
});

test.each(SPECIALS)("a lock that is %s is a stale one", (_, make) => {
  const path = join(folder, "connection.json");
  make(`${path}.lock`);
  make(`${path}.lock.d`);
  expect(acquireLock(path)).toBeUndefined();
  expect(JSON.parse(read(`${path}.lock`)).pid).toBe(process.pid);
  releaseLock(path, () => {});
  expect(readdirSync(folder)).toEqual([]);
});

test.each(SPECIALS)("a list of gateway kernels that is %s is not taken for an empty one", async (_, make) => {
  make(join(folder, "gateway-kernels"));
  const lines: string[] = [];
  const log = (_level: string, event: string) => void lines.push(event);
  const gateway = { url: "http://127.0.0.1:9", token: undefined, env: {} };
  expect(await deleteGatewayKernels(gateway, folder, 1000, log)).toBe(false);
  expect(lines).toEqual(["kernels left at the gateway"]);
});

test.each(SPECIALS)("an API_TOKEN_FILE that is %s is refused", async (_, make) => {
  const path = join(folder, "token");
  make(path);
  const env = await makeEnv(folder, { API_TOKEN_FILE: path });
  expect(() => parseConfig(env, folder)).toThrow(ConfigError);
});

test("a notebook folder that was replaced by a link out of NOTEBOOK_DIR is not served by a restart", async () => {
  await using server = await TestServer.start();
  const inside = join(server.env.NOTEBOOK_DIR ?? "", "a", "b");
  mkdirSync(inside, { recursive: true });
  expect((await server.start({ "notebook-dir": "a/b" })).status).toBe(201);
  rmSync(join(inside, ".."), { recursive: true });
  chmodSync(folder, 0o755);
  expect(Bun.spawnSync(["ln", "-s", folder, join(inside, "..")]).exitCode).toBe(0);
  const { status, body } = await server.ask("POST", "/api/servers/restart");
  expect([status, body.code]).toEqual([422, "invalid_options"]);
  expect(body.message).toContain(`${inside} now leads outside it`);
  expect(readdirSync(folder)).toEqual([]);
  expect(server.tree()).toEqual([]);
});
