/** What JupyterLab's pages load: compressed beforehand, chosen by what a browser accepts, and kept by it. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { brotliDecompressSync, gunzipSync } from "node:zlib";
import { freePort, type Json, NO_TEMPLATE, PYTHON, pidsWith, until } from "../support/helpers.ts";
import { TestServer } from "../support/test-server.ts";

const LIMIT_MS = 60_000;
const PREFIX = "/deep/er";
const SCRIPT = "main.0123456789abcdef.js";
const FOR_EVER = "public, max-age=31536000, immutable";
const decode: Record<string, (body: Uint8Array) => Uint8Array> = { br: brotliDecompressSync, gzip: gunzipSync };

/** A JupyterLab of a few small files, so that all of it is compressed in a moment, and an extension. */
function installLab(folder: string): Record<string, string> {
  const [lab, extension] = [join(folder, "lab"), join(folder, "share", "labextensions", "probe")];
  for (const path of [join(lab, "static"), join(lab, "schemas"), join(extension, "static")])
    mkdirSync(path, { recursive: true });
  writeFileSync(join(lab, "static", "index.html"), "<script></script>");
  writeFileSync(join(lab, "static", SCRIPT), makeScript("main"));
  writeFileSync(join(lab, "static", "changing.js"), makeScript("before"));
  writeFileSync(join(lab, "static", "short.js"), "// short");
  writeFileSync(join(lab, "static", "font.woff2"), makeScript("a font"));
  writeFileSync(join(extension, "package.json"), JSON.stringify({ name: "probe", version: "1.0.0", jupyterlab: {} }));
  writeFileSync(join(extension, "static", "style.js"), makeScript("style"));
  return { JUPYTERLAB_DIR: lab, JUPYTER_PATH: join(folder, "share") };
}

const makeScript = (text: string) =>
  Array.from({ length: 500 }, (_, n) => `// ${text} ${(n * 2654435761) % 1009}\n`).join("");

let folder: string;
let api: TestServer;
let copies: string;
const inLab = (name: string) => join(folder, "lab", "static", name);
/** At JupyterLab's own port, as a browser asks. */
const ask = async (path: string, accept: string, init: RequestInit = {}, port = api.env.JUPYTER_PORT) => {
  const headers = { "accept-encoding": accept, ...(init.headers as Record<string, string>) };
  const answer = await fetch(`http://127.0.0.1:${port}${PREFIX}${path}`, { ...init, headers, decompress: false });
  return { status: answer.status, headers: answer.headers, body: new Uint8Array(await answer.arrayBuffer()) };
};
const encodingOf = async (name: string, accept = "gzip, deflate, br") =>
  (await ask(`/static/lab/${name}`, accept)).headers.get("content-encoding");

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "assets-"));
  const port = String(await freePort());
  const env = {
    PYTHON,
    STANDBY: "armed",
    ...NO_TEMPLATE,
    PROXY: "true",
    PORT: port,
    PUBLIC_URL: `http://127.0.0.1:${port}${PREFIX}`,
  };
  api = await TestServer.start({ ...env, ...installLab(folder) }, folder, { compressAfterMs: 0 });
  api.prepare();
  await api.standby(2);
  const { body } = await api.start();
  expect(body.start_kind).toBe("armed");
  await until("the copies", () => api.log.some((line) => line.includes("assets compressed")));
  copies = `${api.env.CONNECTION_FILE}.assets`;
}, LIMIT_MS);
afterAll(async () => {
  await api[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true, force: true });
});

test.each([
  ["gzip, deflate, br, zstd", "br"],
  ["gzip, deflate", "gzip"],
  ["br;q=0.5, GZIP", "gzip"],
  ["br;q=0, *", "gzip"],
  ["identity;q=0.9, *;q=1", "br"],
  ["gzip;q=0.5, identity", null],
  ["gzip;q=much", null],
  ["zstd", null],
  ["", null],
])("a browser that accepts %p gets %p", async (accept, expected) => {
  const answer = await ask(`/static/lab/${SCRIPT}`, accept);
  const encoding = answer.headers.get("content-encoding");
  expect(encoding).toBe(expected);
  expect(Buffer.from(decode[encoding ?? ""]?.(answer.body) ?? answer.body).toString()).toBe(makeScript("main"));
  const facts = ["content-length", "content-type", "vary", "accept-ranges"].map((name) => answer.headers.get(name));
  expect(facts).toEqual([
    String(answer.body.length),
    expect.stringMatching(/^(text|application)\/javascript$/),
    "Accept-Encoding",
    encoding ? "none" : "bytes",
  ]);
});

test("HEAD tells what GET sends, a range is one of the original, and what has not changed is not sent", async () => {
  const [whole, head] = await Promise.all([
    ask(`/static/lab/${SCRIPT}`, "gzip"),
    ask(`/static/lab/${SCRIPT}`, "gzip", { method: "HEAD" }),
  ]);
  expect(head.body.length).toBe(0);
  for (const name of ["content-encoding", "content-length", "content-type", "last-modified", "vary"])
    expect(head.headers.get(name)).toBe(whole.headers.get(name));
  const part = await ask(`/static/lab/${SCRIPT}`, "gzip", { headers: { range: "bytes=3-10" } });
  expect(part.status).toBe(206);
  expect(part.headers.get("content-encoding")).toBeNull();
  expect(Buffer.from(part.body).toString()).toBe(makeScript("main").slice(3, 11));
  const since = whole.headers.get("last-modified") ?? "";
  const same = await ask(`/static/lab/${SCRIPT}`, "gzip", { headers: { "if-modified-since": since } });
  expect([same.status, same.headers.get("content-encoding"), same.body.length]).toEqual([304, null, 0]);
});

test("Jupyter Server's own files and those of extensions have copies, fonts and short files have none", async () => {
  const server = await ask("/static/style/bootstrap.min.css", "gzip");
  const extension = await ask("/lab/extensions/probe/static/style.js", "br");
  expect([server, extension].map(({ headers }) => headers.get("content-encoding"))).toEqual(["gzip", "br"]);
  expect(await encodingOf("short.js")).toBeNull();
  expect(await encodingOf("font.woff2")).toBeNull();
});

test("a file that has changed is sent as it is, whatever its size and name", async () => {
  expect(await encodingOf("changing.js")).toBe("br");
  writeFileSync(inLab("changing.js"), makeScript("behind"));
  const { headers, body } = await ask("/static/lab/changing.js", "gzip, br");
  expect(headers.get("content-encoding")).toBeNull();
  expect(Buffer.from(body).toString()).toBe(makeScript("behind"));
});

test("a copy is not used where it is larger than its original or another user can write it", async () => {
  writeFileSync(inLab("odd.js"), makeScript("odd"));
  const key = new Bun.CryptoHasher("sha256").update(makeScript("odd")).digest("hex").slice(0, 32);
  const copy = join(copies, `${key}.gz`);
  writeFileSync(copy, "x".repeat(100_000));
  expect(await encodingOf("odd.js", "gzip")).toBeNull();
  writeFileSync(copy, "x", { mode: 0o644 });
  expect(await encodingOf("odd.js", "gzip")).toBe("gzip");
  chmodSync(copy, 0o666);
  expect(await encodingOf("odd.js", "gzip")).toBeNull();
});

test("browsers keep a file for ever that has a hash in its name, below a base URL and of a new extension too", async () => {
  const fresh = join(folder, "share", "labextensions", "fresh", "static");
  mkdirSync(fresh, { recursive: true });
  writeFileSync(join(fresh, "remoteEntry.0123456789abcdef0123.js"), makeScript("fresh"));
  writeFileSync(join(fresh, "style.js"), makeScript("fresh"));
  const cacheOf = async (path: string) => (await ask(path, "gzip")).headers.get("cache-control");
  expect(await cacheOf(`/static/lab/${SCRIPT}`)).toBe(FOR_EVER);
  expect(await cacheOf("/lab/extensions/fresh/static/remoteEntry.0123456789abcdef0123.js")).toBe(FOR_EVER);
  expect(await cacheOf("/lab/extensions/fresh/static/style.js")).toBe("no-cache");
  expect(await cacheOf("/static/style/bootstrap.min.css")).toBe("no-cache");
});

test("the proxy hands a copy on as it is", async () => {
  const [direct, proxied] = await Promise.all([
    ask(`/static/lab/${SCRIPT}`, "gzip, br"),
    ask(`/static/lab/${SCRIPT}`, "gzip, br", {}, api.env.PORT),
  ]);
  expect(proxied.headers.get("content-encoding")).toBe("br");
  expect(proxied.headers.get("vary")).toBe("Accept-Encoding");
  expect(Buffer.from(proxied.body).equals(Buffer.from(direct.body))).toBe(true);
});

test("a large answer in JSON is compressed where that helps, a page never is", async () => {
  const { token } = (await api.show()).body;
  const get = (path: string, accept = "gzip, br") =>
    ask(path, accept, { headers: { authorization: `token ${token}` } });
  const encodingsOf = async (path: string, accept?: string) =>
    (await get(path, accept)).headers.get("content-encoding");
  for (let n = 0; n < 30; n += 1) writeFileSync(join(api.env.NOTEBOOK_DIR ?? "", `notes-${n}.txt`), "");
  const picture = Buffer.from(crypto.getRandomValues(new Uint8Array(30_000))).toString("base64");
  writeFileSync(join(api.env.NOTEBOOK_DIR ?? "", "picture.txt"), picture);
  const [packed, plain] = [await get("/api/contents", "gzip"), await get("/api/contents", "gzip;q=0")];
  expect([packed, plain].map(({ headers }) => headers.get("content-encoding"))).toEqual(["gzip", null]);
  expect([packed, plain].map(({ headers }) => headers.get("vary"))).toEqual(["Accept-Encoding", "Accept-Encoding"]);
  expect(packed.headers.get("content-length")).toBe(String(packed.body.length));
  expect(JSON.parse(gunzipSync(packed.body).toString())).toEqual(JSON.parse(Buffer.from(plain.body).toString()));
  expect(await encodingsOf("/api/contents/picture.txt")).toBeNull();
  expect(await encodingsOf("/api/me")).toBeNull();
  expect(await encodingsOf("/tree")).toBeNull();
});

test(
  "JupyterLab's page asks for its first scripts at once, and shows a splash in the colours of its theme, also where there can't be copies, where it lacks a name that is used, and where the home can't be written, which costs nothing but what would be kept there",
  async () => {
    const own = mkdtempSync(join(tmpdir(), "assets-page-"));
    mkdirSync(join(own, "run"));
    writeFileSync(join(own, "run", "connection.json.assets"), "a file in place of the folder");
    const config = join(own, "jupyter_notebook_config.py");
    writeFileSync(config, "from jupyterlab.handlers.build_handler import Builder\ndel Builder._run_build_check\n");
    const IPYTHONDIR = join(own, "ipython");
    mkdirSync(IPYTHONDIR);
    // Not even root can write there.
    const home = { HOME: "/proc/nowhere", IPYTHONDIR };
    const env = { PYTHON, JUPYTER_CONFIG_FILE: config, JUPYTERLAB_SETTINGS_DIR: join(own, "settings"), ...home };
    await using server = await TestServer.start(env, own, { compressAfterMs: 0 });
    const { body }: Json = await server.start({ "base-url": PREFIX });
    expect(body).toMatchObject({ state: "running" });
    const warning = await until("the warning", () => server.log.find((line) => line.includes("assets not compressed")));
    expect(warning).toContain("EEXIST: file already exists");
    const lacking = "without a quick build check";
    await until("the log", () => server.output.some((line) => line.includes(lacking)));
    const errors = (await server.readOutput()).filter((line) => /Traceback|Error/.test(line));
    expect(errors).toEqual([expect.stringContaining(lacking)]);
    const headers = { authorization: `token ${body.token}` };
    const read = async () => await (await fetch(`${body.url}lab`, { headers })).text();
    const choose = (raw: object) =>
      fetch(`${body.url}lab/api/settings/@jupyterlab/apputils-extension:themes`, {
        ...{ method: "PUT", headers, body: JSON.stringify({ raw: JSON.stringify(raw) }) },
      });
    const page = await read();
    const links = [...page.matchAll(/<link rel="preload" as="script" [^>]*href="([^"]+)"/g)].map(([, url = ""]) => url);
    expect(links.length).toBeGreaterThan(20);
    expect(new Set(links).size).toBe(links.length);
    const core = /\/(jlab_core\.\w+\.js)\?v=\w+$/;
    expect(links.some((url) => core.test(url))).toBe(true);
    for (const url of links) {
      const answer = await fetch(new URL(url, body.url), { headers });
      expect([url, answer.status, url.startsWith(`${PREFIX}/`)]).toEqual([url, 200, true]);
    }
    const script = core.exec(links.find((url) => core.test(url)) ?? "")?.[1] ?? "";
    const answer = await ask(`/static/lab/${script}`, "gzip, br", {}, body.port);
    expect(answer.headers.get("content-encoding")).toBeNull();
    const file = join(dirname(dirname(PYTHON)), "share", "jupyter", "lab", "static", script);
    expect(Buffer.from(answer.body).equals(readFileSync(file))).toBe(true);
    expect(page).toContain("background: #fff;");
    await choose({ theme: "JupyterLab Dark" });
    expect(await read()).toContain("background: #212121;");
    await choose({ "adaptive-theme": true });
    expect(await read()).toContain("prefers-color-scheme: dark");
  },
  LIMIT_MS,
);

const makeLarge = (seed: number) =>
  Array.from({ length: 40_000 }, (_, n) => `var x${(n * 7919 * (seed + 3)) % 65_537} = ${n};`).join("\n");
const readCommand = (pid: number): string => {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8");
  } catch {
    return "";
  }
};

test(
  "the copies are complete, JupyterLab in safe mode uses them, and its end ends the program that makes them",
  async () => {
    expect(readdirSync(copies).filter((name) => name.endsWith(".new"))).toEqual([]);
    expect(statSync(copies).mode & 0o022).toBe(0);
    // Enough for some seconds: it can't be finished by the time JupyterLab ends.
    for (let n = 0; n < 20; n += 1) writeFileSync(inLab(`late-${n}.js`), makeLarge(n));
    const { body } = await api.ask("POST", "/api/servers/restart", { "safe-mode": true });
    expect(body.state).toBe("running");
    expect(await encodingOf(SCRIPT)).toBe("br");
    const working = () => pidsWith(copies).filter((pid) => readCommand(pid).includes("compress-assets"));
    await until("the program that makes copies", () => working().length > 0);
    await api.stop();
    await until("its end", () => working().length === 0);
  },
  LIMIT_MS,
);
