/** The examples of docs/examples.md, run as they stand there, but for ports, folders and names. */
import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { freePort, PROJECT, PYTHON, until } from "../support/helpers.ts";
import { startKernel } from "../support/kernel.ts";
import { TestServer } from "../support/test-server.ts";

const LIMIT_MS = 120_000;
const API_TOKEN = "of-the-control-api";
const NGINX = Bun.which("nginx") ?? Bun.which("nginx", { PATH: "/usr/sbin" });
if (!NGINX) console.warn("NOT RUN: there is no nginx here (Debian: apt-get install nginx-light)");

const text = readFileSync(join(PROJECT, "docs", "examples.md"), "utf8");

/** The code blocks of a language, in their order. */
const blocks = (language: string) =>
  [...text.matchAll(new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\`$`, "gms"))].map((match) => match[1] ?? "");

/** The text with each pair's first replaced by its second; every first must occur. */
function adapt(code: string, pairs: Record<string, string>): string {
  return Object.entries(pairs).reduce((changed, [from, to]) => {
    expect(changed).toContain(from);
    return changed.replaceAll(from, to);
  }, code);
}

/** Opens a websocket and closes it; fails at once where it is refused. */
function openSocket(url: string): Promise<void> {
  const socket = new WebSocket(url);
  return new Promise((settle, fail) => {
    socket.onopen = () => settle(socket.close());
    socket.onerror = () => fail(new Error("The websocket was refused"));
  });
}

const folder = mkdtempSync(join(tmpdir(), "jupyter-examples-"));
// Inside the project, so that the compiler and the runtime find the packages.
const scratch = mkdtempSync(join(PROJECT, "node_modules", ".examples-"));
afterAll(() => {
  for (const path of [folder, scratch]) rmSync(path, { recursive: true, force: true });
});

test("the code blocks are there", () => {
  expect(["python", "ts", "nginx"].map((language) => blocks(language).length)).toEqual([1, 1, 2]);
});

test(
  "Python starts JupyterLab, runs a cell and stops it",
  async () => {
    await using api = await TestServer.start({ API_TOKEN, PYTHON });
    const file = join(folder, "example.py");
    writeFileSync(file, blocks("python")[0] ?? "");
    const { PATH = "" } = process.env;
    const env = { HOME: folder, PATH, CONTROL_API: api.url, API_TOKEN };
    const child = Bun.spawn([PYTHON, file], { env, stdout: "pipe", stderr: "pipe" });
    const [output, errors, code] = await Promise.all([
      new Response(child.stdout).text(),
      new Response(child.stderr).text(),
      child.exited,
    ]);
    expect([output, errors, code]).toEqual(["42\n", "", 0]);
    expect((await api.show()).status).toBe(404);
  },
  LIMIT_MS,
);

/** What else has a type: the answers of the other routes, texts, and event streams. */
const OTHER_ANSWERS = `
export async function watch(url: string): Promise<string[]> {
  const { api, health, metrics } = treaty<App>(url);
  const shown = await api.servers.get();
  if (shown.error?.status === 404) return [shown.error.value.code satisfies "not_running"];
  const stopped = await api.servers.delete(null, { query: { "if-idle": "true" } });
  const restarted = await api.servers.restart.post();
  const events = await api.servers.events.get();
  for await (const { event } of events.data ?? []) if (event) return [event];
  return [
    shown.data?.state ?? "",
    stopped.data?.message ?? "",
    restarted.data?.started_at ?? "",
    (await api.servers.activity.get()).data?.state ?? "",
    (await health.ready.get()).error?.value.code ?? "",
    (await metrics.get()).data ?? "",
  ];
}
`;

test(
  "the typed TypeScript client compiles, starts a server, and tells why it could not",
  async () => {
    const from = { '"jupyter-server"': JSON.stringify(join(PROJECT, "index.ts")) };
    const write = (name: string, pairs: Record<string, string>, more = "") => {
      writeFileSync(join(scratch, name), adapt(blocks("ts")[0] ?? "", { ...from, ...pairs }) + more);
      return join(scratch, name);
    };
    const isText = { "return data.lab_url": "return data.lab_url + data.started_at.replace(/T.*/, '')" };
    const file = write("client.ts", isText, OTHER_ANSWERS);
    const wrong = write("wrong.ts", {
      '"base-url": "/me"': '"base-url": 1',
      "error.value.message": "error.value.summary",
      '"already_running"': '"busy"',
    });
    const config = join(scratch, "tsconfig.json");
    // Both at once: the compiler takes its time for the packages that they share.
    const settings = { extends: join(PROJECT, "tsconfig.json"), include: [], files: [file, wrong] };
    writeFileSync(config, JSON.stringify(settings));
    const compiler = join(PROJECT, "node_modules", ".bin", "tsc");
    // On one thread: its threads check the types that both share once each.
    const { stdout } = Bun.spawnSync([compiler, "--singleThreaded", "--noEmit", "--pretty", "false", "-p", config]);
    const errors = stdout.toString();
    expect(errors).toContain("Type 'number' is not assignable to type 'string'");
    expect(errors).toContain("Property 'summary' does not exist");
    expect(errors).toMatch(/types '"already_running".*' and '"busy"' have no overlap/);
    // The lines of one error but its first are indented.
    const others = errors.split("\n").filter((line) => /^\S/.test(line) && !line.includes("wrong.ts("));
    expect(others).toEqual([]);
    const { openLab } = (await import(file)) as { openLab: (url: string, token?: string) => Promise<string> };
    await using server = await TestServer.start({ API_TOKEN });
    expect(await openLab(server.url, API_TOKEN)).toMatch(/\/me\/lab\?token=\w+20\d\d-\d\d-\d\d$/);
    await expect(openLab(server.url)).rejects.toThrow("unauthorized");
  },
  LIMIT_MS,
);

test.skipIf(!NGINX)(
  "nginx passes a path for each user, and a cell runs through it",
  async () => {
    const port = await freePort();
    const publicUrl = `http://127.0.0.1:${port}`;
    await using alice = await TestServer.start({ PYTHON, PUBLIC_URL: publicUrl });
    await using bob = await TestServer.start({ PYTHON, PUBLIC_URL: publicUrl });
    const [server = "", shared = ""] = blocks("nginx");
    const names = {
      "listen 8000": `listen 127.0.0.1:${port}`,
      "http://alice:8888": `http://127.0.0.1:${alice.env.JUPYTER_PORT}`,
      "http://bob:8888": `http://127.0.0.1:${bob.env.JUPYTER_PORT}`,
    };
    const own = ["body", "proxy", "fastcgi", "uwsgi", "scgi"].map((one) => {
      const option = one === "body" ? "client_body" : one;
      return `${option}_temp_path ${join(folder, one)};`;
    });
    const around = `daemon off; pid ${folder}/nginx.pid; error_log stderr; events {}\n`;
    const http = `http { access_log off; ${own.join(" ")}\n${adapt(server, names)} }\n`;
    writeFileSync(join(folder, "nginx.conf"), `${around}${http}`);
    writeFileSync(join(folder, "jupyterlab.conf"), shared);
    const child = Bun.spawn([NGINX ?? "", "-p", folder, "-e", "stderr", "-c", join(folder, "nginx.conf")], {
      stdout: "ignore",
      stderr: "pipe",
    });
    try {
      const reached = () => fetch(publicUrl).catch(() => undefined);
      await until("nginx", () => {
        if (child.exitCode !== null) throw new Error(`nginx ended with ${child.exitCode}`);
        return reached();
      });
      const started = await Promise.all([
        alice.start({ "base-url": "/user/alice" }),
        bob.start({ "base-url": "/user/bob" }),
      ]);
      for (const [index, { status, body }] of started.entries()) {
        const path = `/user/${["alice", "bob"][index]}/`;
        expect([status, body.url]).toEqual([201, `${publicUrl}${path}`]);
        expect((await fetch(body.lab_url)).status).toBe(200);
        await openSocket(`${body.url.replace("http", "ws")}api/events/subscribe?token=${body.token}`);
        using kernel = await startKernel(body);
        expect(await kernel.run("print(6 * 7)")).toBe("42");
      }
      // Neither user's token opens the other's path.
      const [hers, his] = started;
      const strange = await fetch(`${his.body.url}api/kernels`, {
        headers: { authorization: `token ${hers.body.token}` },
      });
      expect(strange.status).toBe(403);
    } finally {
      child.kill("SIGTERM");
      await child.exited;
    }
  },
  LIMIT_MS,
);
