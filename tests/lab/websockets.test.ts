/** Kernels' websockets and other defaults of the launcher: in force with any configuration file, until somebody sets them. */
import { expect, test } from "bun:test";
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PYTHON, TestServer, until } from "../helpers.ts";
import { startKernel } from "../kernel.ts";

const LIMIT_MS = 30_000;
const TRAIT = "ServerApp.kernel_websocket_connection_class";
const STOCK_CLASS = "jupyter_server.services.kernels.connection.channels.ZMQChannelsWebsocketConnection";
const AUTODETECT = "LanguageServerManager.autodetect";
const STUB_SERVER = `
from jupyter_lsp import LanguageServerManager
LanguageServerManager._autodetect_language_servers = lambda self, **_: print("language servers are searched") or {}
`;

/** A configuration file with these lines. */
function makeConfig(text = ""): { JUPYTER_CONFIG_FILE: string } {
  const file = join(mkdtempSync(join(tmpdir(), "jupyter-config-")), "jupyter_notebook_config.py");
  writeFileSync(file, `c = get_config()\n${text}\n`);
  return { JUPYTER_CONFIG_FILE: file };
}

test.each([
  ["sends at once with the shipped configuration file", {}, {}, true],
  ["sends at once with a file of the user's own", makeConfig(), {}, true],
  ["sends at once in safe mode", {}, { "safe-mode": true }, true],
  ["is of the class that a start names", {}, { [TRAIT]: STOCK_CLASS }, false],
  ["is of the class that a configuration file names", makeConfig(`c.${TRAIT} = "${STOCK_CLASS}"`), {}, false],
])(
  "a kernel's websocket %s",
  async (_title, env, options, isOurs) => {
    await using api = await TestServer.start({ PYTHON, ...env });
    const { body } = await api.start({ "ServerApp.log_level": "DEBUG", ...options });
    using client = await startKernel(body);
    expect(await client.run("1+1")).toBe("2");
    await until("its log", () => api.output.some((line) => line.includes("Connecting to kernel")));
    expect(api.output.some((line) => line.includes("sends at once"))).toBe(isOurs);
  },
  LIMIT_MS,
);

test(
  "a Jupyter Server that keeps its websocket classes elsewhere runs cells all the same",
  async () => {
    const config = makeConfig(
      "import jupyter_server.gateway.connections as module; del module.GatewayWebSocketConnection",
    );
    await using api = await TestServer.start({ PYTHON, ...config });
    const { status, body } = await api.start({ "ServerApp.log_level": "DEBUG" });
    expect(status).toBe(201);
    using client = await startKernel(body);
    expect(await client.run("1+1")).toBe("2");
    expect(api.output.some((line) => line.includes("sends at once"))).toBe(false);
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
    await using api = await TestServer.start({ PYTHON, ...makeConfig(config) });
    const { status } = await api.start({ "ServerApp.log_level": "DEBUG", ...options });
    expect(status).toBe(201);
    await until("the extension is ready", () => api.output.some((line) => line.includes("Language Servers will be")));
    expect(api.output.some((line) => line.includes("language servers are searched"))).toBe(isSearched);
  },
  LIMIT_MS,
);
