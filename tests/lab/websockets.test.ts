/** Kernels' websockets and other defaults of the launcher: in force with any configuration file, until somebody sets them. */
import { afterAll, afterEach, beforeAll, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PROJECT, PYTHON, TestServer, until } from "../support/helpers.ts";
import { startForkedKernel, startKernel, waitFor } from "../support/kernel.ts";

const LIMIT_MS = 30_000;
const TRAIT = "ServerApp.kernel_websocket_connection_class";
const STOCK_CLASS = "jupyter_server.services.kernels.connection.channels.ZMQChannelsWebsocketConnection";
const AUTODETECT = "LanguageServerManager.autodetect";
const STUB_SERVER = `
from jupyter_lsp import LanguageServerManager
LanguageServerManager._autodetect_language_servers = lambda self, **_: print("language servers are searched") or {}
`;

let api: TestServer;
let file: string;
beforeAll(async () => {
  const folder = mkdtempSync(join(tmpdir(), "jupyter-server-"));
  file = join(folder, "jupyter_notebook_config.py");
  const spec = join(folder, "data", "kernels", "spawned");
  mkdirSync(spec, { recursive: true });
  const argv = ["python", "-O", "-m", "ipykernel_launcher", "-f", "{connection_file}"];
  writeFileSync(join(spec, "kernel.json"), JSON.stringify({ argv, display_name: "spawned", language: "python" }));
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
  const { body } = await api.start({ "ServerApp.log_level": "DEBUG", ...options });
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
const SHIPPED = readFileSync(join(PROJECT, "jupyter_notebook_config.py"), "utf8");

test.each([
  ["sends at once with the shipped configuration file", SHIPPED, {}, true],
  ["sends at once with a file of the user's own", own(), {}, true],
  ["sends at once in safe mode", SHIPPED, { "safe-mode": true }, true],
  ["is of the class that a start names", SHIPPED, { [TRAIT]: STOCK_CLASS }, false],
  ["is of the class that a configuration file names", own(`c.${TRAIT} = "${STOCK_CLASS}"`), {}, false],
])(
  "a kernel's websocket %s",
  async (_title, config, options, isOurs) => {
    const { server, hasLogged } = await start(config, options);
    using client = await startKernel(server);
    expect(await client.run("1+1")).toBe("2");
    expect(await hasLogged("Connecting to kernel")).toBe(true);
    expect(await hasLogged("sends at once")).toBe(isOurs);
  },
  LIMIT_MS,
);

test(
  "a kernel's websocket opens once the server has heard from the kernel: its first cell is told as busy",
  async () => {
    const { server } = await start(own(LATE_WATCH), {});
    using client = await startKernel(server);
    const gate = join(api.folder, "gate");
    const cell = client.run(waitFor(gate));
    await until("the cell at work", () => client.kernel.status === "busy");
    const isBusy = async () => (await api.ask("GET", "/api/servers/activity")).body.kernels[0].state === "busy";
    await until("a busy kernel", isBusy, 3000).finally(() => writeFileSync(gate, ""));
    await cell;
  },
  LIMIT_MS,
);

test(
  "a kernel one of whose ports is taken gets others, forked or spawned, and the next ones are forked as before",
  async () => {
    const { server, hasLogged } = await start(own(TAKEN_PORT), {});
    using client = await startKernel(server);
    expect(await client.run("1+1")).toBe("2");
    using spawned = await startKernel(server, { name: "spawned" });
    expect(await spawned.run("1+1")).toBe("2");
    using forked = await startForkedKernel(server);
    expect(await forked.run("1+1")).toBe("2");
    expect(await hasLogged("has failed")).toBe(false);
  },
  LIMIT_MS,
);

test(
  "a Jupyter Server that keeps its websocket classes elsewhere runs cells all the same",
  async () => {
    await using cold = await TestServer.start({ PYTHON, JUPYTER_CONFIG_FILE: file });
    writeFileSync(
      file,
      own("import jupyter_server.gateway.connections as module; del module.GatewayWebSocketConnection"),
    );
    const { status, body } = await cold.start({ "ServerApp.log_level": "DEBUG" });
    expect(status).toBe(201);
    using client = await startKernel(body);
    expect(await client.run("1+1")).toBe("2");
    expect((await cold.readOutput()).some((line) => line.includes("sends at once"))).toBe(false);
  },
  LIMIT_MS,
);

test.each([
  ["are not searched for with a file of the user's own", STUB_SERVER, {}, false],
  ["are searched for where a configuration file asks for it", `${STUB_SERVER}c.${AUTODETECT} = True`, {}, true],
  ["are searched for where a start asks for it", STUB_SERVER, { [AUTODETECT]: true }, true],
])(
  "language servers %s",
  async (_title, config, options, isSearched) => {
    const { hasLogged } = await start(own(config), options);
    await until("the extension is ready", () => hasLogged("Language Servers will be"));
    expect(await hasLogged("language servers are searched")).toBe(isSearched);
  },
  LIMIT_MS,
);
