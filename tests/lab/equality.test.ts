/** A JupyterLab is the same, whichever way it started: bare, cold, by the standby, armed. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { freePort, type Json, PATH, PROJECT, PYTHON, read, until } from "../support/helpers.ts";
import { startForkedKernel, startKernel } from "../support/kernel.ts";
import { TestServer } from "../support/test-server.ts";

const KINDS = ["bare", "cold", "standby", "armed"] as const;
const LIMIT_MS = 180_000;
const ENVIRONMENT = dirname(dirname(PYTHON));
/** The interpreter as `jupyter-lab` names it: an image can have one under two paths. */
const BARE_PYTHON = /^#!(\S+)/.exec(read(join(dirname(PYTHON), "jupyter-lab")))?.[1] ?? PYTHON;
const TOKEN = "of-all-four";
/** What a kernel is, in a cell. `runpy` runs `python -m`, which a forked kernel does not need. */
const KERNEL_FACTS = `
import gc, json, locale, logging, os, resource, signal, sys, threading, time, warnings
mask = os.umask(0); os.umask(mask)
limits = [name for name in dir(resource) if name.startswith("RLIMIT_")]
main = sys.modules["__main__"]
logged_ms = logging.LogRecord("", 0, "", 0, "", (), None).relativeCreated
start_s = int(open("/proc/self/stat").read().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
print(json.dumps({
    "environment": dict(os.environ), "path": sys.path, "flags": list(sys.flags), "folder": os.getcwd(),
    "shown": get_ipython().display_formatter.format(os.environ)[0]["text/plain"].partition("'")[0],
    "descriptors": sorted(name for name in os.listdir("/proc/self/fd") if int(name) < 3),
    "inheritable": [fd for fd in range(3, 256) if os.path.exists(f"/proc/self/fd/{fd}") and os.get_inheritable(fd)],
    "input": [os.read(0, 1).decode(), sys.__stdin__.seekable()],
    "output": [os.readlink(f"/proc/self/fd/{fd}").split(":")[0] for fd in (1, 2)],
    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])), "umask": mask, "nice": os.nice(0),
    "signals": [str(signal.getsignal(number)).split(" at ")[0] for number in range(1, 32) if number not in (9, 19)],
    "limits": [resource.getrlimit(getattr(resource, name)) for name in limits],
    "oom": open("/proc/self/oom_score_adj").read(), "groups": os.getgroups(),
    "argv": sys.argv, "orig_argv": sys.orig_argv, "executable": sys.executable,
    "command": open("/proc/self/cmdline").read().split("\\0"),
    "main": sorted(name for name in vars(main) if not name.startswith(("_i", "_o"))),
    "file": [hasattr(main, "__file__"), getattr(main, "__spec__", None)],
    "parent": os.environ["JPY_PARENT_PID"] == str(os.getppid()),
    "leader": [os.getsid(0) == os.getpid(), os.getpgrp() == os.getpid()],
    "native_id": threading.main_thread().native_id == os.getpid(),
    "threads": sorted(thread.name.split("-")[0] for thread in threading.enumerate()),
    "modules": sorted(set(sys.modules) - {"runpy"}), "meta_path": [str(finder).split(" at ")[0] for finder in sys.meta_path],
    "gc": [gc.isenabled(), gc.get_threshold()], "locale": locale.setlocale(locale.LC_ALL),
    "warnings": len(warnings.filters), "loggers": len(logging.root.handlers),
    "log_is_of_this_process": logged_ms / 1000 <= time.clock_gettime(time.CLOCK_BOOTTIME) - start_s,
    "streams": [type(stream).__name__ for stream in (sys.stdin, sys.stdout, sys.__stdout__, sys.__stderr__)],
}))`;

let folder: string;
const facts: Record<string, Json> = {};
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "equality-"));
  const config = join(folder, "jupyter_notebook_config.py");
  const ours = await Bun.file(join(PROJECT, "jupyter_notebook_config.py")).text();
  const probe = `\nimport sys\nsys.path.append(${JSON.stringify(join(PROJECT, "tests", "support"))})\nc.ServerApp.extra_services = ["probe_service"]\n`;
  writeFileSync(config, ours + probe);
  mkdirSync(join(folder, "notebooks"));
  facts.bare = await collectBare(config);
  await collectCold(config);
  await collectWarm(config);
}, LIMIT_MS);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** `jupyter lab` as a user types it. */
async function collectBare(config: string): Promise<Json> {
  const port = await freePort();
  const root = join(folder, "notebooks");
  const settings = {
    ServerApp: { ip: "127.0.0.1", port, port_retries: 0, root_dir: root, open_browser: "False", allow_root: "True" },
    IdentityProvider: { token: TOKEN },
  };
  const options = Object.entries(settings).flatMap(([name, traits]) =>
    Object.entries(traits).map(([trait, value]) => `--${name}.${trait}=${value}`),
  );
  const { LANG = "C.UTF-8" } = process.env;
  const runtime = join(folder, "bare-runtime");
  const child = Bun.spawn([join(dirname(PYTHON), "jupyter-lab"), `--config=${config}`, ...options], {
    cwd: root,
    env: { PATH, HOME: join(folder, "home"), LANG, JUPYTER_RUNTIME_DIR: runtime },
    stdio: ["ignore", "ignore", "ignore"],
    detached: true,
  });
  const url = `http://127.0.0.1:${port}/`;
  try {
    await until("bare JupyterLab", () => fetch(`${url}api`).catch(() => undefined));
    return await collect({ url, token: TOKEN }, [runtime, String(port)]);
  } finally {
    child.kill("SIGTERM");
    await child.exited;
  }
}

async function collectCold(config: string): Promise<void> {
  await using api = await startOurs("off", config);
  facts.cold = await collectStart(api, "cold");
}

async function collectWarm(config: string): Promise<void> {
  await using api = await startOurs("armed", config);
  // The start waits for the zygote. What is armed then has its options.
  api.prepare();
  facts.standby = await collectStart(api, "standby");
  await api.stop();
  await api.standby(2);
  facts.armed = await collectStart(api, "armed");
}

function startOurs(standby: "off" | "armed", config: string): Promise<TestServer> {
  const more = { JUPYTER_CONFIG_FILE: config, NOTEBOOK_DIR: join(folder, "notebooks"), HOME: join(folder, "home") };
  return TestServer.start({ PYTHON, STANDBY: standby, ...more });
}

async function collectStart(api: TestServer, kind: string): Promise<Json> {
  const { body } = await api.start({ token: TOKEN });
  expect(body.start_kind).toBe(kind);
  const runtime = /JUPYTER_RUNTIME_DIR=([^\0]+)/.exec(read(`/proc/${body.pid}/environ`))?.[1] ?? "";
  return await collect(body, [runtime, String(body.port)], kind !== "cold");
}

/** All that is compared, with what has to differ (folder, port, random parts) named alike. */
async function collect(server: { url: string; token: string }, own: [string, string], forked = false): Promise<Json> {
  const get = async (path: string) => {
    const response = await fetch(`${server.url}${path}`, { headers: { authorization: `token ${server.token}` } });
    // Differences that are meant: the question about news is answered, and the page has a splash and preloads.
    const text = (await response.text())
      .replace(/(<link rel="preload" as="script"[^>]*>)*<style>\n@media screen[^<]*<\/style>(?=<\/head>)/, "")
      .replace(/("title": "Ask \(None\)"\}\]), "default": "\w+"/g, "$1")
      .replace(/(it will make a request to a website\.", "type": "boolean"), "default": (true|false)/g, "$1");
    // Large answers are compressed.
    const headers = [...response.headers.keys()].filter((name) => !["vary", "content-encoding"].includes(name));
    return { status: response.status, headers: headers.sort(), text };
  };
  const probe = JSON.parse((await get("probe")).text);
  const page = /<script id="jupyter-config-data"[^>]*>([\s\S]*?)<\/script>/.exec((await get("lab")).text)?.[1] ?? "";
  using client = await (forked ? startForkedKernel(server) : startKernel(server));
  const kernel = JSON.parse(await client.run(KERNEL_FACTS));
  const pages = ["api", "api/kernelspecs", "lab/api/settings", "lab/api/themes", "api/contents", "tree", "nothing"];
  const answers = await Promise.all(pages.map(async (path) => [path, await get(path)]));
  const [runtime, port] = own;
  const text = JSON.stringify({ probe, page: JSON.parse(page), kernel, answers })
    .replaceAll(JSON.stringify(BARE_PYTHON), JSON.stringify(PYTHON))
    // `jupyter-lab` names the environment's own path, also where .venv is a link.
    .replaceAll(realpathSync(ENVIRONMENT), ENVIRONMENT)
    .replaceAll(runtime, "RUNTIME")
    .replaceAll(new RegExp(`\\b${port}\\b`, "g"), "PORT")
    .replaceAll(/(?<="JPY_PARENT_PID":")\d+/g, "PID")
    .replaceAll(/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/g, "ID")
    .replaceAll(/\d{4}-\d\d-\d\dT[\d:.]+(Z|\+00:00)/g, "TIME");
  return JSON.parse(text);
}

test.each(KINDS.slice(1))("%s: the server is the same as bare", (kind) => {
  expect(Object.keys(facts.bare.probe.extensions)).toContain("jupyterlab");
  expect(facts.bare.probe.handlers.length).toBeGreaterThan(50);
  expect(facts[kind].probe).toEqual(facts.bare.probe);
});

test.each(KINDS.slice(1))("%s: the page of /lab and the answers are the same as bare", (kind) => {
  expect(facts[kind].page).toEqual(facts.bare.page);
  expect(facts[kind].answers).toEqual(facts.bare.answers);
});

test.each(KINDS.slice(1))("%s: a kernel has the same environment as with bare", (kind) => {
  expect(facts.bare.kernel.environment.JUPYTER_RUNTIME_DIR).toBe("RUNTIME");
  expect(facts.bare.kernel.modules.length).toBeGreaterThan(500);
  expect(facts[kind].kernel).toEqual(facts.bare.kernel);
});
