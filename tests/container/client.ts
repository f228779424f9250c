/**
 * The user of the container, outside of it: starts a JupyterLab through the published ports, runs a real kernel, stops it,
 * reads what inside.sh found, and leaves three busy kernels behind for the stop. `bun client.ts KIND URL FOLDER`
 */
import { deepStrictEqual as equal, match, ok } from "node:assert";
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type Json, PROJECT } from "../support/helpers.ts";
import { startKernel } from "../support/kernel.ts";

/** The image may have to be built first. */
const LAUNCH_LIMIT_MS = 900_000;
const STEP_LIMIT_MS = 50_000;

const [kind = "", api = "", folder = ""] = process.argv.slice(2);

try {
  await proveMainJob();
  await proveContents();
  await leaveBusy();
  process.exit(0);
} catch (error) {
  writeFileSync(join(folder, "failed"), "");
  console.error(error);
  process.exit(1);
}

/** GET, POST, a kernel that works in the mounted folder as the user the container was given, DELETE. */
async function proveMainJob(): Promise<void> {
  await until("the control API", LAUNCH_LIMIT_MS, async () => (await ask("GET", "/health/live"))?.status === 200);
  for (const page of [
    "/",
    "/page/base.css",
    "/page/main.js",
    "/docs",
    "/page/docs.js",
    "/docs/swagger-ui-bundle.js",
    "/docs/swagger-ui.css",
    "/docs/json",
  ]) {
    equal([page, (await ask("GET", page))?.status], [page, 200]);
  }
  equal((await ask("GET", "/api/servers/"))?.status, 404);
  const server = await start();
  console.error(`container: ${kind}: POST to 201 as ${server.start_kind} in ${server.start_ms.total} ms`);
  equal(server.notebook_dir, "/notebooks");
  await proveCopies(server);
  const { run } = await startKernel(server);
  equal(await run("1+1"), "2");
  equal(await run("open('from-a-cell.txt', 'w').write('hello')"), "5");
  equal(readFileSync(join(folder, "from-a-cell.txt"), "utf8"), "hello");
  const uid = kind === "hardened" ? 4321 : 1000;
  equal(await run("import os; (os.getuid(), os.getgid())"), `(${uid}, 0)`);
  equal(statSync(join(folder, "from-a-cell.txt")).uid, uid);
  // Written where HOME is, by whoever the user is.
  equal(await run("!git config --global user.name me && git config user.name"), "me");
  if (kind === "hardened") {
    const status = await run("print(open('/proc/self/status').read())");
    match(status, /^CapEff:\s+0+$/m);
    match(status, /^NoNewPrivs:\s+1$/m);
    match(await run("open('/app/new', 'w')"), /Read-only file system/);
  } else {
    match(await run("open('/app/new', 'w')"), /Permission denied/);
  }
  // What a kernel leaves behind is reaped by process 1, and ended by DELETE.
  await run("import subprocess; subprocess.Popen(['sh', '-c', 'setsid sleep 1000 & sleep 0.1']).wait()");
  equal((await ask("DELETE", "/api/servers/"))?.status, 200);
  writeFileSync(join(folder, "stopped"), "");
}

/** JupyterLab's main script comes from the copies that the image was built with. */
async function proveCopies({ url, token }: Json): Promise<void> {
  const page = await fetch(`${url}lab`, { headers: { authorization: `token ${token}` } });
  const script = /<script[^>]* src="([^"]*main\.[^"]+)"/.exec(await page.text())?.[1] ?? "";
  for (const encoding of ["br", "gzip"]) {
    const answer = await fetch(new URL(script, url), { headers: { "accept-encoding": encoding } });
    equal([script, answer.headers.get("content-encoding")], [script, encoding]);
    match(await answer.text(), /chunkMapping/);
  }
}

/** What is in the image, what runs after a DELETE, and what was written to the image's own files. */
async function proveContents(): Promise<void> {
  await until("a look inside", STEP_LIMIT_MS, async () => existsSync(join(folder, "inspected")));
  const lines = (file: string) => readFileSync(join(folder, file), "utf8").split("\n").filter(Boolean);
  const besides = [
    "jupyter_notebook_config.py",
    ...readdirSync(join(PROJECT, "python"))
      .filter((file) => file !== "__pycache__")
      .map((file) => `python/${file}`),
    ...readdirSync(join(PROJECT, "page")).map((file) => `page/${file}`),
  ];
  const isCopy = /^\/app\/asset-copies\/[0-9a-f]{32}\.(br|gz)$/;
  const application = lines("application").filter((file) => !file.includes("/__pycache__/"));
  ok(application.filter((file) => isCopy.test(file)).length > 200);
  equal(
    application.filter((file) => !isCopy.test(file)),
    [
      "/app/index.js",
      "/app/index.js.jsc",
      "/app/lab/compress-assets.ts",
      "/app/node_modules/swagger-ui-dist/swagger-ui-bundle.js",
      "/app/node_modules/swagger-ui-dist/swagger-ui.css",
      "/app/requirements.txt",
      ...besides.map((file) => `/app/${file}`),
    ].sort(),
  );
  equal(lines("strangers"), ["/app/node_modules"]);
  const processes = lines("processes");
  ok(processes.some((line) => line.includes("bun index.js")));
  equal(
    processes.filter((line) => /^\d+ Z|ipykernel|jupyter-lab|sleep 1000/.test(line)),
    [],
  );
  const outside = lines("written").filter((file) => !/^\/(tmp|run\/jupyter-server)\//.test(file));
  equal(outside, []);
}

/** Three kernels that never end by themselves. */
async function leaveBusy(): Promise<void> {
  const server = await start();
  for (let count = 0; count < 3; count += 1) void (await startKernel(server)).run("while True: pass");
  await until("three busy kernels", STEP_LIMIT_MS, async () => {
    const answer = await fetch(`${server.url}api/kernels?token=${server.token}`);
    const kernels = (await answer.json()) as Json;
    return kernels.length === 3 && kernels.every((kernel: Json) => kernel.execution_state === "busy");
  });
  writeFileSync(join(folder, "busy"), "");
}

async function start(): Promise<Json> {
  const answer = await ask("POST", "/api/servers/");
  const body = (await answer?.json()) as Json;
  equal([answer?.status, body?.message], [201, undefined]);
  return body;
}

function ask(method: string, path: string): Promise<Response | undefined> {
  return fetch(`${api}${path}`, { method, signal: AbortSignal.timeout(STEP_LIMIT_MS) }).catch(() => undefined);
}

async function until(what: string, limitMs: number, check: () => Promise<boolean>): Promise<void> {
  const limit = performance.now() + limitMs;
  while (!(await check())) {
    if (performance.now() > limit) throw new Error(`Waited in vain for: ${what}`);
    await sleep(100);
  }
}
