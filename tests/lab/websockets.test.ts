/** Kernels' websockets and other defaults of the launcher: in force with any configuration file, until somebody sets them. */
import { afterAll, afterEach, beforeAll, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PROJECT, PYTHON, until } from "../support/helpers.ts";
import { addSpec, findTemplate, IS_FORKED, startForkedKernel, startKernel, waitFor } from "../support/kernel.ts";
import { TestServer } from "../support/test-server.ts";

const LIMIT_MS = 60_000;
const VERBOSE = { "ServerApp.log_level": "DEBUG" };
const TRAIT = "ServerApp.kernel_websocket_connection_class";
const STOCK_CLASS = "jupyter_server.services.kernels.connection.channels.ZMQChannelsWebsocketConnection";
const AUTODETECT = "LanguageServerManager.autodetect";
const STUB_SERVER = `
from jupyter_lsp import LanguageServerManager
LanguageServerManager._autodetect_language_servers = lambda self, **_: print("language servers are searched") or {}
`;
const SHIPPED_CONFIG = readFileSync(join(PROJECT, "jupyter_notebook_config.py"), "utf8");

let api: TestServer;
let file: string;
beforeAll(async () => {
  const folder = mkdtempSync(join(tmpdir(), "jupyter-server-"));
  file = join(folder, "jupyter_notebook_config.py");
  const argv = ["python", "-O", "-m", "ipykernel_launcher", "-f", "{connection_file}"];
  addSpec(join(folder, "data"), "own-command", { argv });
  const env = { PYTHON, STANDBY: "on", JUPYTER_CONFIG_FILE: file, JUPYTER_PATH: join(folder, "data") };
  api = await TestServer.start(env, folder);
  api.prepare();
}, LIMIT_MS);
afterEach(() => api.stop());
afterAll(() => api[Symbol.asyncDispose]());

/** Starts JupyterLab with a configuration file of this text, and gives it with what it writes. */
async function start(config: string, options: object) {
  writeFileSync(file, config);
  const from = (await api.readOutput()).length;
  const { body } = await api.start({ ...VERBOSE, ...options });
  expect(body).toMatchObject({ state: "running" });
  const hasLogged = async (text: string) => (await api.readOutput()).slice(from).some((line) => line.includes(text));
  return { server: body, hasLogged };
}

// The server listens to a new kernel's status only after a moment, as on a machine that is busy.
const LATE_WATCH = `
import asyncio
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
watch = AsyncMappingKernelManager.start_watching_activity
AsyncMappingKernelManager.start_watching_activity = lambda self, kernel_id: (
    asyncio.get_running_loop().call_later(0.4, watch, self, kernel_id)
)
`;

// A port that Jupyter has found free, and that something else has by the time when the kernel is started: of the first two
// kernels. Each one needs five ports, and then others.
const TAKEN_PORT = `
import socket
from jupyter_client.connect import LocalPortCache
taken, find, calls = socket.create_server(("127.0.0.1", 0)), LocalPortCache.find_available_port, []
LocalPortCache.find_available_port = lambda self, ip: (
    calls.append(ip) or (taken.getsockname()[1] if len(calls) in (1, 11) else find(self, ip))
)
`;

const own = (text = "") => `c = get_config()\n${text}\n`;

test(
  "with a file of the user's own a kernel's websocket sends at once, and opens once the server has heard from the kernel: its first cell is told as busy; a kernel one of whose ports is taken gets others, forked, or spawned by its kernelspec's own command, and the next ones are forked as before; language servers are not searched for",
  async () => {
    const { server, hasLogged } = await start(own(LATE_WATCH + TAKEN_PORT + STUB_SERVER), {});
    using client = await startKernel(server);
    const gate = join(api.folder, "gate");
    const cell = client.run(waitFor(gate));
    await until("the cell at work", () => client.kernel.status === "busy");
    const isBusy = async () => (await api.ask("GET", "/api/servers/activity")).body.kernels[0].state === "busy";
    await until("a busy kernel", isBusy, 3000).finally(() => writeFileSync(gate, ""));
    await cell;
    expect(await client.run("1+1")).toBe("2");
    expect(await hasLogged("Connecting to kernel")).toBe(true);
    expect(await hasLogged("sends at once")).toBe(true);
    using spawned = await startKernel(server, { name: "own-command" });
    expect(await spawned.run("1+1")).toBe("2");
    expect(await spawned.run("import sys; print(sys.flags.optimize)")).toBe("1");
    expect(await spawned.run(IS_FORKED)).toBe("False");
    using forked = await startForkedKernel(server);
    expect(await forked.run("1+1")).toBe("2");
    expect(await hasLogged("has failed")).toBe(false);
    await until("the extension is ready", () => hasLogged("Language Servers will be"));
    expect(await hasLogged("language servers are searched")).toBe(false);
  },
  LIMIT_MS,
);

const TERMINALS = "ServerApp.terminals_enabled";
const SETTINGS = `c.${TRAIT} = "${STOCK_CLASS}"\nc.${AUTODETECT} = True\nc.${TERMINALS} = False`;

test.each([
  ["a start", own(STUB_SERVER), { [TRAIT]: STOCK_CLASS, [AUTODETECT]: true, [TERMINALS]: false }],
  ["the control API's configuration file", own(SETTINGS + STUB_SERVER), {}],
  ["a file of Jupyter's own", SHIPPED_CONFIG + STUB_SERVER, { env: { JUPYTER_CONFIG_PATH: "." } }],
])(
  "a kernel's websocket is of the class that %s names, language servers are searched for where it asks for it, and there are no terminals where it wants none",
  async (_title, config, options) => {
    writeFileSync(join(api.env.NOTEBOOK_DIR ?? "", "jupyter_server_config.py"), own(SETTINGS));
    const { server, hasLogged } = await start(config, options);
    using client = await startKernel(server);
    expect(await client.run("1+1")).toBe("2");
    expect(await hasLogged("Connecting to kernel")).toBe(true);
    expect(await hasLogged("sends at once")).toBe(false);
    await until("the extension is ready", () => hasLogged("Language Servers will be"));
    expect(await hasLogged("language servers are searched")).toBe(true);
    const headers = { authorization: `token ${server.token}` };
    expect((await fetch(`${server.url}api/terminals`, { headers })).status).toBe(404);
  },
  LIMIT_MS,
);

test(
  "with STANDBY=off kernels are spawned, and a Jupyter Server that keeps its websocket classes elsewhere runs cells all the same",
  async () => {
    await using cold = await TestServer.start({ PYTHON, JUPYTER_CONFIG_FILE: file });
    writeFileSync(
      file,
      own("import jupyter_server.gateway.connections as module; del module.GatewayWebSocketConnection"),
    );
    const { status, body } = await cold.start(VERBOSE);
    expect(status).toBe(201);
    using client = await startKernel(body);
    expect(await client.run("1+1")).toBe("2");
    expect(await client.run(IS_FORKED)).toBe("False");
    expect(findTemplate(body)).toBeUndefined();
    expect((await cold.readOutput()).some((line) => line.includes("sends at once"))).toBe(false);
  },
  LIMIT_MS,
);

test(
  "safe mode forks kernels too, whose websockets send at once",
  async () => {
    const { server, hasLogged } = await start(own(), { "safe-mode": true });
    using client = await startForkedKernel(server);
    expect(await client.run("1+1")).toBe("2");
    expect(await hasLogged("Connecting to kernel")).toBe(true);
    expect(await hasLogged("sends at once")).toBe(true);
  },
  LIMIT_MS,
);
