/** Jupyter's own configuration files with the real JupyterLab: all of them are in force, and none fails in silence. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { ask } from "../../lab/client.ts";
import { type Json, PYTHON, read, TestServer, until } from "../helpers.ts";

const LIMIT_MS = 60_000;
const KINDS = ["off", "on", "armed"] as const;
const KIND_OF = { off: "cold", on: "standby", armed: "armed" } as const;

type Files = Record<string, string | Uint8Array>;

/** Writes files below a folder. The time of an edit differs from that of the edit before, whatever the clock says. */
function write(folder: string, files: Files): void {
  for (const [name, content] of Object.entries(files)) {
    const path = join(folder, name);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, content);
    const time = Date.now() / 1000 + Math.random();
    utimesSync(path, time, time);
  }
}

/** A control API whose home folder has these files. */
async function startApi(files: Files, env: Record<string, string> = {}): Promise<TestServer> {
  const folder = mkdtempSync(join(tmpdir(), "jupyter-config-"));
  write(folder, files);
  const own = Object.fromEntries(Object.entries(env).map(([name, value]) => [name, value.replace("HOME", folder)]));
  return await TestServer.start({ PYTHON, HOME: folder, ...own }, folder);
}

/** Waits for what `STANDBY` keeps, so that the next start has that kind. */
async function warmUp(api: TestServer): Promise<void> {
  api.prepare();
  await api.standby({ off: 0, on: 1, armed: 2 }[api.env.STANDBY ?? "off"] ?? 0);
}

const secretOf = (api: TestServer): string =>
  JSON.parse(read(join(api.folder, "run", "connection.json"))).supervisor.secret;

/** Sends JupyterLab a request at its address, whatever its certificate. */
function send(server: Json, path: string, headers: Record<string, string> = {}, method: "GET" | "DELETE" = "GET") {
  const url = `${server.secure ? "https" : "http"}://127.0.0.1:${server.port}${server.base_url}${path}`;
  return ask(url, { method, headers, timeoutMs: 10_000, tls: { rejectUnauthorized: false } });
}

const withToken = (server: Json) => ({ authorization: `token ${server.token}` });

/** Says which files have set what: a section that no class has stays in JupyterLab's configuration. */
const REPORTER = `
import json

def _jupyter_server_extension_points():
    return [{"module": "reporter"}]

def _load_jupyter_server_extension(app):
    print("ORDER", json.dumps(dict(app.config["Order"]), sort_keys=True))
`;
const set = (label: string, ...names: string[]) => names.map((name) => `c.Order.${name} = "${label}"\n`).join("");

test.each(KINDS)(
  "every file that jupyter lab reads is in force, in its order, then JUPYTER_CONFIG_FILE, then the start (STANDBY=%s)",
  async (standby) => {
    const files = {
      "site/reporter.py": REPORTER,
      "shared/jupyter_server_config.d/reporter.json": '{"ServerApp": {"jpserver_extensions": {"reporter": true}}}',
      "shared/jupyter_server_config.py": set("shared server", "base", "shared"),
      ".jupyter/jupyter_config.py": set("user base", "base"),
      ".jupyter/jupyter_server_config.py": set("user server", "shared", "python"),
      ".jupyter/jupyter_server_config.json": '{"Order": {"python": "user JSON", "json": "user JSON"}}',
      ".jupyter/jupyter_lab_config.py": set("user lab", "lab", "own"),
      "own.py": `load_subconfig("part.py")\n${set("own", "json", "own", "start")}`,
      "part.py": set("part", "part"),
    };
    const env = { STANDBY: standby, JUPYTER_CONFIG_PATH: "HOME/shared", PYTHONPATH: "HOME/site" };
    await using api = await startApi(files, { ...env, JUPYTER_CONFIG_FILE: "HOME/own.py" });
    const order = {
      base: "shared server",
      shared: "shared server",
      python: "user JSON",
      lab: "user lab",
      own: "own",
      json: "own",
      part: "part",
    };
    const report = async (count: number) => {
      const reports = () => api.output.filter((line) => line.startsWith("ORDER"));
      await until("its settings", () => reports().length === count);
      return JSON.parse(reports().at(-1)?.slice(6) ?? "{}");
    };
    await warmUp(api);
    const first = await api.start();
    expect([first.status, first.body.start_kind]).toEqual([201, KIND_OF[standby]]);
    expect(await report(1)).toEqual({ ...order, start: "own" });
    await api.stop();
    const second = await api.start({ "Order.start": "start" });
    expect(second.status).toBe(201);
    expect(second.body.warnings).toEqual(['"Order.start" has no effect: the installed Jupyter has no such setting']);
    expect(await report(2)).toEqual({ ...order, start: "start" });
  },
  LIMIT_MS,
);

/** A control API that serves many failing starts, each with the files that a test has written, which are gone after it. */
function shareApi(): { api: TestServer; put: (files: Files) => void } {
  const shared = { api: undefined as unknown as TestServer, put: (files: Files) => write(shared.api.folder, files) };
  beforeAll(async () => {
    shared.api = await startApi({ "own.py": "" }, { STANDBY: "on", JUPYTER_CONFIG_FILE: "HOME/own.py" });
    await warmUp(shared.api);
  }, LIMIT_MS);
  afterEach(() => {
    const [zygote] = shared.api.standbyPids();
    expect(shared.api.tree()).toEqual(zygote ? [zygote] : []);
    rmSync(join(shared.api.folder, ".jupyter"), { recursive: true, force: true });
    write(shared.api.folder, { "own.py": "" });
  });
  afterAll(() => shared.api[Symbol.asyncDispose]());
  return shared;
}

test(
  "the files of the Python's own prefix are in force too",
  async () => {
    const prefix = mkdtempSync(join(tmpdir(), "jupyter-prefix-"));
    const packages = run(PYTHON, "-c", "import site; print('\\n'.join(site.getsitepackages()))").join("\n");
    const share = join(dirname(dirname(PYTHON)), "share");
    run(PYTHON, "-m", "venv", "--without-pip", prefix);
    const python = join(prefix, "bin", "python");
    const [own = ""] = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))");
    writeFileSync(join(own, "all.pth"), packages);
    symlinkSync(share, join(prefix, "share"));
    write(prefix, { "etc/jupyter/jupyter_server_config.py": "c.ContentsManager.allow_hidden = True\n" });
    await using api = await startApi({}, { PYTHON: python });
    const { body } = await api.start();
    write(api.env.NOTEBOOK_DIR ?? "", { ".env": "a" });
    expect((await send(body, "api/contents/.env", withToken(body))).status).toBe(200);
    await api.stop();
    write(prefix, { "etc/jupyter/jupyter_lab_config.json": "{,}" });
    const broken = (await api.start()).body;
    expect(broken.detail).toContain(`${join(prefix, "etc/jupyter/jupyter_lab_config.json")} does not load (line 1)`);
    rmSync(prefix, { recursive: true });
  },
  LIMIT_MS,
);

/** The lines that a program prints. */
function run(...command: string[]): string[] {
  const { exitCode, stdout, stderr } = Bun.spawnSync(command);
  if (exitCode !== 0) throw new Error(stderr.toString());
  return stdout.toString().trim().split("\n");
}

// Python 3.13 names the comma, the versions before it what comes after it.
const [COMMA_IS_NAMED] = run(PYTHON, "-c", "import sys; print(sys.version_info >= (3, 13))");
const COMMA_LINE = COMMA_IS_NAMED === "True" ? /\(line 2\): / : /\(line 3\): /;

// biome-ignore format: a table reads best in rows
const BROKEN: [what: string, file: string, content: string | Uint8Array, reason: RegExp][] = [
  ["a server file that raises", ".jupyter/jupyter_server_config.py", "\nraise ValueError(1)\n", /\(line 2\): ValueError: 1/],
  ["a lab file that raises", ".jupyter/jupyter_lab_config.py", "raise ValueError('x')\n", /\(line 1\): ValueError: x/],
  ["a lab file with a syntax error", ".jupyter/jupyter_lab_config.py", "x = 1\nx = = 1\n", /\(line 2\): SyntaxError: /],
  ["a trailing comma", ".jupyter/jupyter_lab_config.json", '{\n"LabApp": {},\n}\n', COMMA_LINE],
  ["an empty file", ".jupyter/jupyter_config.json", "", /it is empty/],
  ["a byte order mark", ".jupyter/jupyter_config.json", "\ufeff{}", /byte order mark/],
  ["JSON that is no object", ".jupyter/jupyter_server_config.json", "[1]", /must hold one JSON object/],
  ["a section that is no object", ".jupyter/jupyter_server_config.json", '{"ServerApp": 5}', /ServerApp must be an object/],
  ["JSON that is not UTF-8", ".jupyter/jupyter_server_config.json", Uint8Array.of(0x7b, 0x0a, 0x22, 0xe9, 0x22), /\(line 2\): UnicodeDecodeError/],
  ["Python that is not UTF-8", ".jupyter/jupyter_server_config.py", Uint8Array.of(0x78, 0x3d, 0x22, 0xe9, 0x22, 0x0a), /SyntaxError: .*utf-8/],
  ["an exit", ".jupyter/jupyter_server_config.py", "import sys\nsys.exit(3)\n", /\(line 2\): .*sys\.exit\(3\)/],
  ["a list of extensions", ".jupyter/jupyter_server_config.d/x.json", '{"ServerApp": {},}', /\(line 1\): /],
  ["a default of the pages", ".jupyter/labconfig/page_config.json", "{,}", /\(line 1\): /],
  ["a file of another extension", ".jupyter/jupyter_jupyter_server_terminals_config.py", "1/0\n", /\(line 1\): ZeroDivisionError/],
];
describe("a configuration file that does not load", () => {
  const shared = shareApi();

  test.each(BROKEN)("%s fails the start, and the answer names the file", async (_, file, content, reason) => {
    shared.put({ [file]: content });
    const { status, body } = await shared.api.start();
    expect([status, body.code, body.exit_code]).toEqual([500, "config_error", 1]);
    expect(body.detail).toContain(`The configuration file ${join(shared.api.folder, file)} does not load`);
    expect(body.detail).toMatch(reason);
    expect(body.detail).not.toContain("if a configuration file");
  });

  test("is named also where it is a folder, or a link to nothing", async () => {
    const path = join(shared.api.folder, ".jupyter", "jupyter_server_config.json");
    mkdirSync(path, { recursive: true });
    expect((await shared.api.start()).body.detail).toContain(`${path} does not load: it is a folder`);
    rmSync(path, { recursive: true });
    symlinkSync("nowhere.json", path);
    expect((await shared.api.start()).body.detail).toContain(`${path} does not load: it is a link to nowhere.json`);
  });
});

test.each(["on", "armed"] as const)(
  "a change of any file after the warm-up counts (STANDBY=%s)",
  async (standby) => {
    const files = {
      ".jupyter/jupyter_lab_config.py": "c.LabApp.collaborative = False\n",
      ".jupyter/jupyter_server_config.d/x.json": "{}",
      "own.py": `import sys\nsys.path.insert(0, "HOOKS")\nimport our_hooks\nload_subconfig("part.py")\n`,
      "part.py": "pass\n",
      "hooks/our_hooks.py": "pass\n",
    };
    await using api = await startApi({}, { STANDBY: standby, JUPYTER_CONFIG_FILE: "HOME/own.py" });
    write(api.folder, { ...files, "own.py": files["own.py"].replace("HOOKS", join(api.folder, "hooks")) });
    for (const [name, text] of [
      [".jupyter/jupyter_lab_config.py", "raise ValueError('changed')\n"],
      [".jupyter/jupyter_server_config.d/x.json", "{,}"],
      [".jupyter/jupyter_server_config.py", "raise ValueError('changed')\n"],
      ["part.py", "raise ValueError('changed')\n"],
      ["hooks/our_hooks.py", "raise ValueError('changed')\n"],
    ] as const) {
      await warmUp(api);
      write(api.folder, { [name]: text });
      const { status, body } = await api.start();
      expect([name, status, body.code]).toEqual([name, 500, "config_error"]);
      expect(body.detail).toMatch(/changed|enclosed in double quotes/);
      if (name in files) write(api.folder, { [name]: files[name as keyof typeof files] });
      else rmSync(join(api.folder, name));
    }
    await warmUp(api);
    const { status, body } = await api.start();
    expect([status, body.start_kind]).toEqual([201, KIND_OF[standby]]);
  },
  LIMIT_MS,
);

// biome-ignore format: a table reads best in rows
const REFUSED: [body: object, message: string][] = [
  [{ "MappingKernelManager.cull_idle_timeout": "abc" }, '"MappingKernelManager.cull_idle_timeout" must be an int, got "abc"'],
  [{ "LabApp.dev_mode": "perhaps" }, '"LabApp.dev_mode" must be a boolean, got "perhaps"'],
  [{ "ServerApp.preferred_dir": "/nowhere" }, '"ServerApp.preferred_dir" is refused: No such preferred dir'],
  [{ "PasswordIdentityProvider.hashed_password": 12345 }, '"PasswordIdentityProvider.hashed_password" must be a unicode string, got ***'],
  [{ "ServerApp.contents_manager_class": "no.Such" }, "\"ServerApp.contents_manager_class\" must be a type, but 'no.Such' could not be imported"],
];
// biome-ignore format: a table reads best in rows
const WRONG: [line: string, message: RegExp][] = [
  ["c.ServerApp.max_body_size = 'much'", /sets ServerApp.max_body_size, which must be an int/],
  ["c.LabApp.dev_mode = 'perhaps'", /sets LabApp.dev_mode, which must be a boolean/],
  ["c.ServerApp.certfile = '/missing.pem'", /sets ServerApp.certfile, which must be a readable file; \/missing.pem is not \(ENOENT\)/],
  ["c.ServerApp.certfile = __file__", /sets ServerApp.certfile, which must be a PEM certificate/],
  ["c.ServerApp.keyfile = __file__", /sets ServerApp.keyfile, which must not be set without a certfile/],
  ["c.PasswordIdentityProvider.password_required = True", /password_required needs a hashed_password/],
  ["c.ServerApp.allow_origin_pat = '('", /missing \)/],
];
describe("a setting that can't work", () => {
  const shared = shareApi();

  test.each(REFUSED)("is refused where a start asks for it: %j", async (body, message) => {
    const answer = await shared.api.start(body);
    expect([answer.status, answer.body.code]).toEqual([422, "invalid_options"]);
    expect(answer.body.detail).toContain(message);
    expect(answer.text).not.toContain("12345");
  });

  test.each(WRONG)("is a config_error where a file has it: %s", async (line, message) => {
    shared.put({ "own.py": `${line}\n` });
    const { body } = await shared.api.start();
    expect([body.status, body.code]).toEqual([500, "config_error"]);
    expect(body.detail).toMatch(message);
    expect(body.detail).not.toMatch(/<locals>|object at 0x/);
  });
});

test(
  "settings without effect are told in warnings, until the next start, by a recovered server too",
  async () => {
    const file = "c.ServerApp.base_url = '/elsewhere'\nc.ServerApp.open_browser = False\n";
    await using api = await startApi({ ".jupyter/jupyter_server_config.py": file });
    const own = `ServerApp.base_url in ${join(api.folder, ".jupyter/jupyter_server_config.py")} has no effect: the control API sets it itself; use base-url`;
    const asked = {
      "MappingKernelManager.cull_idle_timout": 600,
      "MultiKernelManager.cull_interval": 60,
      "HTMLExporter.theme": "light",
      "NotebookApp.max_body_size": 1_000_000,
    };
    const { status, body } = await api.start(asked);
    expect(status).toBe(201);
    expect(body.warnings).toEqual([
      '"MappingKernelManager.cull_idle_timout" has no effect: the installed Jupyter has no such setting; did you mean MappingKernelManager.cull_idle_timeout?',
      own,
    ]);
    expect((await api.show()).body.warnings).toEqual(body.warnings);
    expect(JSON.parse(read(join(api.folder, "run", "connection.json"))).supervisor.warnings).toEqual(body.warnings);
    await api.stop();
    expect((await api.start()).body.warnings).toEqual([own]);
  },
  LIMIT_MS,
);

/** As in an image that makes its own certificate and asks for a password, with what its documentation offers. */
const IMAGE_CONFIG = `
import os
import stat
import subprocess

from jupyter_core.paths import jupyter_data_dir
from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager

c = get_config()
c.ServerApp.ip = "0.0.0.0"
c.ServerApp.open_browser = False
c.FileContentsManager.delete_to_trash = False
if "GEN_CERT" in os.environ:
    os.makedirs(jupyter_data_dir(), exist_ok=True)
    pem_file = os.path.join(jupyter_data_dir(), "notebook.pem")
    subprocess.check_call(["openssl", "req", "-new", "-newkey", "rsa:2048", "-days", "365", "-nodes", "-x509",
        "-subj", "/C=XX/ST=XX/L=XX/O=generated/CN=generated", "-keyout", pem_file, "-out", pem_file])
    os.chmod(pem_file, stat.S_IRUSR | stat.S_IWUSR)
    c.ServerApp.certfile = pem_file
c.PasswordIdentityProvider.hashed_password = "sha1:74ba40f8a388:c913541b7ee99d15d5ed31d4226bf7838f83a50e"

class Manager(AsyncLargeFileManager):
    pass

def before(model, path, **kwargs):
    if model["type"] == "notebook":
        for cell in model["content"]["cells"]:
            cell["outputs"] = []

def after(model, os_path, contents_manager, **kwargs):
    print("SAVED", os.path.basename(os_path), type(contents_manager).__name__)

c.ServerApp.contents_manager_class = Manager
c.ContentsManager.pre_save_hook = before
c.FileContentsManager.post_save_hook = after
c.MappingKernelManager.cull_idle_timeout = 600
c.MappingKernelManager.cull_interval = 60
c.ServerApp.tornado_settings = {"headers": {"Content-Security-Policy": "frame-ancestors https://portal.example.org"}}
`;

test.each(KINDS)(
  "an image's configuration runs as under jupyter lab: certificate, password, contents manager, hooks, policy (STANDBY=%s)",
  async (standby) => {
    const files = { ".jupyter/jupyter_server_config.py": IMAGE_CONFIG, "own.py": "" };
    const env = { STANDBY: standby, GEN_CERT: "yes", JUPYTER_CONFIG_FILE: "HOME/own.py" };
    await using api = await startApi(files, env);
    await warmUp(api);
    const { status, body } = await api.start();
    expect([status, body.start_kind, body.secure, body.password]).toEqual([201, KIND_OF[standby], true, true]);
    expect(body.url).toStartWith("https://");
    const headers = { ...withToken(body), "content-type": "application/json" };
    const notebook = { cells: [], metadata: {}, nbformat: 4, nbformat_minor: 5 };
    const saved = await fetch(`${body.url}api/contents/a.ipynb`, {
      method: "PUT",
      headers,
      body: JSON.stringify({ type: "notebook", format: "json", content: notebook }),
      tls: { rejectUnauthorized: false },
    });
    expect(saved.status).toBe(201);
    expect(saved.headers.get("content-security-policy")).toContain("frame-ancestors https://portal.example.org");
    await until("the hook", () => api.output.includes("SAVED a.ipynb Manager"));
    expect((await send(body, "api/contents")).status).toBe(403);
    expect((await api.stop()).status).toBe(200);
    if (standby === "off") expect(api.tree()).toEqual([]);
  },
  LIMIT_MS,
);

/** As behind a proxy that has identified the user: nobody else comes in, by no token either. */
const HUB_CONFIG = `
import os

from jupyter_server.auth import Authorizer, IdentityProvider, User

class ProxyUser(User):
    pass

class HeaderIdentityProvider(IdentityProvider):
    async def get_user(self, handler):
        name = handler.request.headers.get("X-Forwarded-User", "")
        return ProxyUser(name) if name else None

    def identity_model(self, user):
        assert isinstance(user, ProxyUser)
        return {"username": user.username, "name": user.name, "display_name": user.name, "initials": None,
            "avatar_url": None, "color": None}

    def is_token_authenticated(self, handler):
        return False

class OwnerOnly(Authorizer):
    async def is_authorized(self, handler, user, action, resource):
        return user.username == "owner"

c.ServerApp.identity_provider_class = HeaderIdentityProvider
c.ServerApp.authorizer_class = OwnerOnly
c.ServerApp.allow_remote_access = False
c.ServerApp.local_hostnames = ["inside.example.org"]
c.ServerApp.base_url = os.environ.get("NB_PREFIX", "/")
c.ServerApp.allow_origin = "*"
`;

test.each(KINDS)(
  "a hub's identity provider decides who comes in, and the control API's own secret opens no other way (STANDBY=%s)",
  async (standby) => {
    const env = { STANDBY: standby, NB_PREFIX: "/notebook/ns/name", PUBLIC_URL: "https://Hub.example.org/x" };
    await using api = await startApi({ ".jupyter/jupyter_server_config.py": HUB_CONFIG }, env);
    await warmUp(api);
    const { status, body } = await api.start({ "base-url": "/notebook/ns/name" });
    expect(status).toBe(201);
    expect(body.warnings).toEqual([]);
    const codes = (headers: Record<string, string>, method?: "DELETE") =>
      Promise.all(
        ["api/me", "api/contents", "api/kernels", "lab"].map((path) => send(body, path, headers, method)),
      ).then((answers) => answers.map((answer) => answer.status));
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
    for (const text of [api.output.join("\n"), api.log.join("\n"), (await api.show()).text])
      expect(text).not.toContain(secret);
    expect((await api.ask("POST", "/api/servers/restart")).status).toBe(201);
    expect(secretOf(api)).not.toBe(secret);
    expect((await api.stop()).status).toBe(200);
    if (standby === "off") expect(api.tree()).toEqual([]);
  },
  LIMIT_MS,
);

test(
  "JupyterLab does not ask for news with a user's own configuration either, unless that says so",
  async () => {
    const path = "lab/api/settings/@jupyterlab/apputils-extension:notification";
    const defaultOf = (text: string) => JSON.parse(text).schema.properties.fetchNews.default;
    await using api = await startApi({ "own.py": "" }, { JUPYTER_CONFIG_FILE: "HOME/own.py" });
    const first = (await api.start()).body;
    expect(defaultOf((await send(first, path, withToken(first))).body)).toBe("false");
    await api.stop();
    const wanted = { "@jupyterlab/apputils-extension:notification": { fetchNews: "true" } };
    write(api.folder, { ".jupyter/labconfig/default_setting_overrides.json": JSON.stringify(wanted) });
    const second = (await api.start()).body;
    expect(defaultOf((await send(second, path, withToken(second))).body)).toBe("true");
  },
  LIMIT_MS,
);
