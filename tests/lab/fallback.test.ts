/** A JupyterLab that lacks a method which the launcher overrides: it starts as `jupyter lab` starts it. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { startApi, warmUp, write } from "../support/config-files.ts";
import { read } from "../support/helpers.ts";
import { startKernel } from "../support/kernel.ts";
import type { TestServer } from "../support/test-server.ts";

const LIMIT_MS = 30_000;

/** Renames a method of ServerApp when its module is imported, and lets instances still find it by the old name. */
const OTHER_VERSION = `
import importlib.abc, importlib.machinery, sys

class Loader(importlib.machinery.SourceFileLoader):
    def exec_module(self, module):
        super().exec_module(module)
        app = module.ServerApp
        app.bind_renamed = app._bind_http_server
        del app._bind_http_server
        app.__getattr__ = lambda self, name: object.__getattribute__(self, {"_bind_http_server": "bind_renamed"}.get(name, name))

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "jupyter_server.serverapp":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        spec.loader = Loader(spec.loader.name, spec.loader.path)
        return spec

sys.meta_path.insert(0, Finder())
`;

const LACKS = "lacks jupyter_server.serverapp:ServerApp._bind_http_server";

let api: TestServer;
beforeAll(async () => {
  api = await startApi({ "site/sitecustomize.py": OTHER_VERSION }, { STANDBY: "on", PYTHONPATH: "HOME/site" });
  await warmUp(api);
}, LIMIT_MS);
afterAll(() => api[Symbol.asyncDispose]());

test.each([
  ["with its configuration file", "standby", {}],
  ["in safe mode", "cold", { "safe-mode": true }],
])(
  "it starts %s (%s), with the settings of its start, inside an iframe too",
  async (_title, kind, options) => {
    const position = api.output.length;
    const { status, body } = await api.start({
      ...options,
      "base-url": "/other",
      token: "of-the-start",
      embed: ["https://portal.example.org"],
    });
    expect([status, body.start_kind]).toEqual([201, kind]);
    expect(body).toMatchObject({ base_url: "/other/", port: Number(api.env.JUPYTER_PORT) });
    expect((await api.readOutput()).slice(position).join("\n")).toContain(LACKS);
    expect(read(`/proc/${body.pid}/cmdline`)).not.toContain("of-the-start");
    const { headers } = await fetch(`${body.url}lab?token=of-the-start`);
    expect(headers.get("content-security-policy")).toContain("frame-ancestors 'self' https://portal.example.org");
    // Safe mode leaves out the files that enable this extension.
    expect((await fetch(`${body.url}api/terminals?token=of-the-start`)).status).toBe(200);
    using client = await startKernel(body);
    expect(await client.run("1+1")).toBe("2");
    expect((await api.stop()).status).toBe(200);
    expect(api.tree()).toEqual(api.standbyPids());
  },
  LIMIT_MS,
);

test("a configuration file that does not load is named there too, and so is a wrong setting", async () => {
  const position = api.output.length;
  write(api.folder, { ".jupyter/jupyter_lab_config.py": "\nraise ValueError('theirs')\n" });
  const file = join(api.folder, ".jupyter", "jupyter_lab_config.py");
  const broken = (await api.start()).body;
  expect([broken.status, broken.code]).toEqual([500, "config_error"]);
  expect(broken.detail).toContain(`${file} does not load (line 2): ValueError: theirs`);
  rmSync(file);
  const wrong = (await api.start({ "MappingKernelManager.cull_interval": "abc" })).body;
  expect([wrong.status, wrong.code]).toEqual([422, "invalid_options"]);
  expect(wrong.detail).toContain('"MappingKernelManager.cull_interval" must be an int, got "abc"');
  expect((await api.readOutput()).slice(position).join("\n")).toContain(LACKS);
});
