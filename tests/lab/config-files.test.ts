/** Jupyter's own configuration files with the real JupyterLab: all of them are in force, however it starts. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  checkIndiscreet,
  type Files,
  INDISCREET,
  INDISCREET_TITLE,
  makeEnvironment,
  send,
  startApi,
  warmUp,
  withToken,
  write,
} from "../support/config-files.ts";
import { type Json, NO_TEMPLATE, PROJECT, until } from "../support/helpers.ts";
import { checkHub, HUB_ENV, HUB_FILES, HUB_OPTIONS, HUB_TITLE, secretOf } from "../support/hub.ts";
import type { TestServer } from "../support/test-server.ts";

const LIMIT_MS = 60_000;

let starts = 0;
/**
 * The options of a start that no other has: no armed process is for them, so that it is a fork of the zygote. An armed one
 * with a token that is named serves later starts too, and is not made again at a stop.
 */
const newOptions = () => {
  starts += 1;
  return { env: { START: String(starts) }, token: "of-the-test" };
};

/** Says which files have set what: a section that no class has stays in JupyterLab's configuration. */
const REPORTER = `
import json
import os

def _jupyter_server_extension_points():
    return [{"module": "reporter"}]

def _load_jupyter_server_extension(app):
    print("ORDER", os.getpid(), json.dumps(dict(app.config["Order"]), sort_keys=True))
`;
const set = (label: string, ...names: string[]) => names.map((name) => `c.Order.${name} = "${label}"\n`).join("");

/** An environment of its own with the packages of the other one: its prefix has configuration files, too. */
let prefix: string;
let python: string;
beforeAll(() => {
  prefix = mkdtempSync(join(tmpdir(), "jupyter-prefix-"));
  const own = makeEnvironment(prefix);
  python = join(prefix, "bin", "python");
  write(own, { "reporter.py": REPORTER });
  const file = `c.ContentsManager.allow_hidden = True\n${set("prefix", "prefix")}`;
  write(prefix, { "etc/jupyter/jupyter_server_config.py": file });
});
afterAll(() => rmSync(prefix, { recursive: true }));

/** Checks a JupyterLab that has just started, of which one file and the start can have set `start`. */
async function checkOrder(api: TestServer, server: Json, start: string): Promise<void> {
  const mark = `ORDER ${server.pid} `;
  const line = await until("its settings", () => api.output.find((line) => line.startsWith(mark)));
  expect(JSON.parse(line.slice(mark.length))).toEqual({
    base: "shared server",
    shared: "shared server",
    prefix: "prefix",
    python: "user JSON",
    lab: "user lab",
    own: "own",
    json: "own",
    part: "part",
    start,
  });
}

/** Checks the default of whether JupyterLab asks for news. */
async function checkNews(server: Json, expected: string): Promise<void> {
  const path = "lab/api/settings/@jupyterlab/apputils-extension:notification";
  const { body } = await send(server, path, withToken(server));
  expect(JSON.parse(body).schema.properties.fetchNews.default).toBe(expected);
}

/** Checks what the image's configuration asks for: certificate, password, contents manager, hooks and policy. */
async function checkImage(api: TestServer, server: Json, kind: string): Promise<void> {
  expect([server.secure, server.password]).toEqual([true, true]);
  const name = `${kind}.ipynb`;
  const headers = { ...withToken(server), "content-type": "application/json" };
  const notebook = { cells: [], metadata: {}, nbformat: 4, nbformat_minor: 5 };
  const saved = await fetch(`https://127.0.0.1:${server.port}/api/contents/${name}`, {
    method: "PUT",
    headers,
    body: JSON.stringify({ type: "notebook", format: "json", content: notebook }),
    tls: { rejectUnauthorized: false },
  });
  expect(saved.status).toBe(201);
  expect(saved.headers.get("content-security-policy")).toContain("frame-ancestors https://portal.example.org");
  await until("the hook", () => api.output.includes(`SAVED ${name} Manager`));
  expect((await send(server, "api/contents")).status).toBe(403);
}

const readConfig = (name: string) => readFileSync(join(PROJECT, "tests", "support", name), "utf8");

const ORDER_FILES = {
  "shared/jupyter_server_config.d/reporter.json": '{"ServerApp": {"jpserver_extensions": {"reporter": true}}}',
  "shared/jupyter_server_config.py": set("shared server", "base", "shared"),
  ".jupyter/jupyter_config.py": set("user base", "base"),
  ".jupyter/jupyter_server_config.py": `${readConfig("image_config.py")}${set("user server", "shared", "python")}`,
  ".jupyter/jupyter_server_config.json": '{"Order": {"python": "user JSON", "json": "user JSON"}}',
  ".jupyter/jupyter_lab_config.py": set("user lab", "lab", "own"),
  "own.py": `load_subconfig("part.py")\n${set("own", "json", "own", "start")}`,
  "part.py": set("part", "part"),
};
/** Of a start that sets `Order.start`. */
const listWarnings = (api: TestServer) => [
  '"Order.start" has no effect: the installed Jupyter has no such setting',
  `ServerApp.ip in ${join(api.folder, ".jupyter/jupyter_server_config.py")} has no effect: the control API sets it itself; use JUPYTER_HOST in the environment`,
];
const NEWS_FILES = {
  ".jupyter/labconfig/default_setting_overrides.json": JSON.stringify({
    "@jupyterlab/apputils-extension:notification": { fetchNews: "true" },
  }),
};
const ORDER_TITLE =
  "every file that jupyter lab reads is in force, in its order, then JUPYTER_CONFIG_FILE, then the start: an image's configuration too, and news are off unless a file asks for them";
const ORDER_ENV = { GEN_CERT: "yes", JUPYTER_CONFIG_PATH: "HOME/shared", JUPYTER_CONFIG_FILE: "HOME/own.py" };

describe("STANDBY=off", () => {
  test(
    ORDER_TITLE,
    async () => {
      await using api = await startApi(ORDER_FILES, { PYTHON: python, ...ORDER_ENV });
      const first = await api.start();
      expect([first.status, first.body.start_kind]).toEqual([201, "cold"]);
      await checkOrder(api, first.body, "own");
      await checkImage(api, first.body, "cold");
      expect(first.body.url).toStartWith("https://");
      const secret = secretOf(api);
      await checkNews(first.body, "false");
      // The prefix has allowed it.
      write(api.env.NOTEBOOK_DIR ?? "", { ".env": "a" });
      expect((await send(first.body, "api/contents/.env", withToken(first.body))).status).toBe(200);
      expect((await api.stop()).status).toBe(200);
      expect(api.tree()).toEqual([]);
      write(api.folder, NEWS_FILES);
      const second = await api.start({ "Order.start": "start" });
      expect(second.status).toBe(201);
      expect(secretOf(api)).not.toBe(secret);
      expect(second.body.warnings).toEqual(listWarnings(api));
      await checkOrder(api, second.body, "start");
      await checkNews(second.body, "true");
    },
    LIMIT_MS,
  );

  test(
    HUB_TITLE,
    async () => {
      await using api = await startApi(HUB_FILES, HUB_ENV);
      await checkHub(api, await api.start(HUB_OPTIONS), "cold");
      expect((await api.stop()).status).toBe(200);
      expect(api.tree()).toEqual([]);
    },
    LIMIT_MS,
  );
});

describe("STANDBY=armed, by a fork of the zygote and by an armed process", () => {
  let api: TestServer;
  const put = (files: Files) => write(api.folder, files);
  /** Restarts JupyterLab by the process that is armed with the options of its start. */
  const restartArmed = async () => {
    await api.standby(2);
    return await api.ask("POST", "/api/servers/restart");
  };
  beforeAll(async () => {
    const env = { STANDBY: "armed", ...NO_TEMPLATE, ...ORDER_ENV, ...HUB_ENV, JUPYTER_GATEWAY_URL: "" };
    api = await startApi({ "own.py": "" }, { PYTHON: python, ...env });
    api.prepare();
  });
  afterEach(async () => {
    await api.stop();
    for (const name of [".jupyter", "shared"]) rmSync(join(api.folder, name), { recursive: true, force: true });
    put({ "own.py": "" });
  });
  afterAll(() => api[Symbol.asyncDispose]());

  test(
    ORDER_TITLE,
    async () => {
      put(ORDER_FILES);
      const options = newOptions();
      for (const [kind, start] of [
        ["standby", () => api.start(options)],
        ["armed", restartArmed],
      ] as const) {
        const { status, body } = await start();
        expect([status, body.start_kind]).toEqual([201, kind]);
        await checkOrder(api, body, "own");
        await checkImage(api, body, kind);
        await checkNews(body, "false");
      }
      expect((await api.stop()).status).toBe(200);
      put(NEWS_FILES);
      const { status, body } = await api.start({ ...options, "Order.start": "start" });
      expect([status, body.start_kind]).toEqual([201, "standby"]);
      expect(body.warnings).toEqual(listWarnings(api));
      await checkOrder(api, body, "start");
      await checkNews(body, "true");
      await api.stop();
      const broken = join(prefix, "etc/jupyter/jupyter_lab_config.json");
      write(prefix, { "etc/jupyter/jupyter_lab_config.json": "{,}" });
      const { detail } = (await api.start()).body;
      rmSync(broken);
      expect(detail).toContain(`${broken} does not load (line 1)`);
    },
    LIMIT_MS,
  );

  test(
    "a change of any file after the warm-up counts",
    async () => {
      const hooks = join(api.folder, "hooks");
      const files = {
        ".jupyter/jupyter_lab_config.py": "c.LabApp.collaborative = False\n",
        ".jupyter/jupyter_server_config.d/x.json": "{}",
        "own.py": `import sys\nsys.path.insert(0, "${hooks}")\nimport our_hooks\nload_subconfig("part.py")\n`,
        "part.py": "pass\n",
        "hooks/our_hooks.py": "pass\n",
      };
      put(files);
      await warmUp(api);
      const options = newOptions();
      expect((await api.start(options)).body.start_kind).toBe("standby");
      await api.stop();
      for (const [name, text] of [
        [".jupyter/jupyter_lab_config.py", "raise ValueError('changed')\n"],
        [".jupyter/jupyter_server_config.d/x.json", "{,}"],
        [".jupyter/jupyter_server_config.py", "raise ValueError('changed')\n"],
        ["part.py", "raise ValueError('changed')\n"],
        ["hooks/our_hooks.py", "raise ValueError('changed')\n"],
      ] as const) {
        await warmUp(api);
        put({ [name]: text });
        // An armed process is for the second one.
        for (const asked of [newOptions(), options]) {
          const { status, body } = await api.start(asked);
          expect([name, status, body.code]).toEqual([name, 500, "config_error"]);
          expect(body.detail).toMatch(/changed|enclosed in double quotes/);
        }
        if (name in files) put({ [name]: files[name as keyof typeof files] });
        else rmSync(join(api.folder, name));
      }
      await warmUp(api);
      const { status, body } = await api.start(options);
      expect([status, body.start_kind]).toEqual([201, "armed"]);
    },
    LIMIT_MS,
  );

  test(
    HUB_TITLE,
    async () => {
      put(HUB_FILES);
      await checkHub(api, await api.start({ ...newOptions(), ...HUB_OPTIONS }), "standby");
      const secret = secretOf(api);
      await checkHub(api, await restartArmed(), "armed");
      expect(secretOf(api)).not.toBe(secret);
      const ofArmed = secretOf(api);
      expect((await api.ask("POST", "/api/servers/restart")).status).toBe(201);
      expect(secretOf(api)).not.toBe(ofArmed);
      expect((await api.stop()).status).toBe(200);
    },
    LIMIT_MS,
  );

  test(
    INDISCREET_TITLE,
    async () => {
      put({ "own.py": INDISCREET });
      const asked = { env: { A_TOKEN: "of-the-user" }, token: "of-jupyterlab", "ServerApp.log_level": "DEBUG" };
      const answers = [await api.start(asked), await restartArmed()];
      await checkIndiscreet(api, answers, ["standby", "armed"], "/");
    },
    LIMIT_MS,
  );

  test(
    "what an armed process of other options has written is masked in the log of a start, also what went past Python",
    async () => {
      put({ "own.py": 'import os\nos.write(2, b"it is %s\\n" % os.environb.get(b"A_TOKEN", b"nothing"))\n' });
      const before = (await api.readOutput()).length;
      expect((await api.start({ ...newOptions(), env: { A_TOKEN: "of-somebody" } })).status).toBe(201);
      await api.standby(2);
      await api.stop();
      expect((await api.start(newOptions())).body.start_kind).toBe("standby");
      const output = (await api.readOutput()).slice(before);
      expect(output.filter((line) => line === "it is ***").length).toBeGreaterThanOrEqual(2);
      expect(output.join("\n")).not.toContain("of-somebody");
    },
    LIMIT_MS,
  );
});
