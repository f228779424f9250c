/**
 * One port in a real Chromium: JupyterLab and the control page behind a path that is kept or taken away, an open tab that
 * waits, and a session.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type IncomingMessage, request } from "node:http";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CHROMIUM, readOutput, runCell, writeNotebook } from "../support/browser.ts";
import { freePort, PYTHON, until } from "../support/helpers.ts";
import { waitFor } from "../support/kernel.ts";
import { TestServer } from "../support/test-server.ts";
import { installUpstream } from "../support/upstream.ts";
import { findControls } from "./controls.ts";
import { expectLegible } from "./legible.ts";
import { LIMIT_MS, useBrowser } from "./use-browser.ts";

/** What an open tab asks for by itself, again and again. */
const POLLED = ["contents", "events", "kernels", "sessions", "terminals"];

/** An ingress that takes the prefix away and does not say so. */
function startIngress(port: number, target: number, prefix: string) {
  const strip = ({ url = "" }: IncomingMessage) => url.slice(prefix.length) || "/";
  const server = createServer((given, answer) => {
    const options = {
      host: "127.0.0.1",
      port: target,
      path: strip(given),
      method: given.method,
      headers: given.headers,
    };
    const sent = request(options, (got) => {
      answer.writeHead(got.statusCode ?? 502, got.headers);
      got.pipe(answer);
    });
    sent.on("error", () => answer.destroy());
    given.pipe(sent);
  });
  server.on("upgrade", (given: IncomingMessage, browser: Socket, head: Buffer) => {
    const upstream = connect(target, "127.0.0.1");
    const headers = given.rawHeaders.map((text, index) => (index % 2 === 0 ? `${text}: ` : `${text}\r\n`)).join("");
    upstream.write(`GET ${strip(given)} HTTP/1.1\r\n${headers}\r\n`);
    upstream.write(head);
    for (const [from, to] of [
      [browser, upstream],
      [upstream, browser],
    ] as const) {
      from.on("error", () => to.destroy());
      from.on("close", () => to.destroy());
      from.pipe(to);
    }
  });
  server.listen(port, "127.0.0.1");
  return {
    [Symbol.dispose]() {
      server.closeAllConnections();
      server.close();
    },
  };
}

const countRequests = async (api: TestServer) =>
  Number(/proxy_requests_total (\d+)/.exec((await api.ask("GET", "/metrics")).text)?.[1]);
const stateOf = async (api: TestServer) => (await api.show()).body.state;

describe.skipIf(!CHROMIUM)("JupyterLab at the control API's port", () => {
  const browser = useBrowser();
  const { button, awaitState, focused } = findControls(browser);
  let publicUrl: string;
  let api: TestServer;
  let ingress: Disposable;
  beforeAll(async () => {
    const port = await freePort();
    publicUrl = `http://127.0.0.1:${port}/u/ann`;
    api = await TestServer.start({ PROXY: "true", PYTHON, PUBLIC_URL: publicUrl, STANDBY: "on" });
    api.prepare();
    ingress = startIngress(port, Number(api.env.PORT), "/u/ann");
  });
  afterAll(async () => {
    ingress[Symbol.dispose]();
    await api[Symbol.asyncDispose]();
  });

  test(
    "runs a cell behind a path that is taken away; the control page beside it shows the kernel busy and idle, asks before it is lost, restarts and stops",
    async () => {
      const gate = join(mkdtempSync(join(api.folder, "gate-")), "open");
      writeNotebook(api.env.NOTEBOOK_DIR ?? "", "stripped.ipynb", `${waitFor(gate)}print(6 * 7)`);
      // Nobody has started it, and no address has a token.
      const lab = await browser.open(`${publicUrl}/lab/tree/stripped.ipynb?reset`);
      await runCell(lab);
      const { pid } = (await api.show()).body;
      const page = await browser.visit(`${publicUrl}/`);
      await awaitState("Running");
      await page.locator('#kernel-table td[data-state="busy"]').waitFor();
      await page.getByText("1 kernel is busy.").waitFor();
      await page
        .getByRole("table", { name: "Kernels" })
        .getByRole("cell", { name: /^python3 [0-9a-f]{8}$/ })
        .waitFor();
      await expectLegible(page);

      await button("Stop").click();
      await page.getByRole("dialog", { name: "Stop JupyterLab?" }).waitFor();
      expect(await focused()).toBe("confirmation-no");
      await page.keyboard.press("Enter");
      expect((await api.show()).status).toBe(200);
      await button("Restart").click();
      await page.getByRole("dialog", { name: "Restart JupyterLab?" }).waitFor();
      await page.keyboard.press("Escape");
      expect((await api.show()).body.pid).toBe(pid);

      writeFileSync(gate, "");
      await page.locator('#kernel-table td[data-state="idle"]').waitFor();
      expect(await readOutput(lab)).toBe("42");
      await lab.close();
      await button("Restart").click();
      await until("another process", async () => ![undefined, pid].includes((await api.show()).body.pid));
      await awaitState("Running");
      await button("Stop").click();
      await awaitState("Stopped");
      expect(await focused()).toBe("state");
      expect(await stateOf(api)).toBe("stopped");
    },
    LIMIT_MS,
  );

  test(
    "runs a cell behind a path that is kept; an open tab wakes it by a save alone",
    async () => {
      const folder = api.env.NOTEBOOK_DIR ?? "";
      writeNotebook(folder, "kept.ipynb", "print(6 * 8)");
      // Not watched for errors: its requests are refused later, and JupyterLab reports each of them.
      const kept = await browser.context.newPage();
      await kept.goto(`${api.url}/u/ann/lab/tree/kept.ipynb?reset`);
      await runCell(kept);
      expect(await readOutput(kept)).toBe("48");

      const source = kept.locator(".jp-Notebook .cm-content").first();
      await source.click();
      await kept.keyboard.type("# unsaved\n");
      const { token } = (await api.show()).body;
      const before = await countRequests(api);
      await api.stop();
      const refused: string[] = [];
      const note = (url: string) => refused.push(/\/api\/(\w+)/.exec(url)?.[1] ?? url);
      kept.on("response", (response) => response.status() === 503 && note(response.url()));
      kept.on("websocket", (socket) => socket.on("socketerror", () => note(socket.url())));
      await until("what a forgotten tab asks", () => POLLED.every((name) => refused.includes(name)), LIMIT_MS);
      const least = before + refused.length;
      expect(await countRequests(api)).toBeGreaterThanOrEqual(least);
      expect(await stateOf(api)).toBe("stopped");
      // JupyterLab says that it has lost its server, and goes on trying.
      await kept.locator(".jp-Dialog-content", { hasText: "Server Connection Error" }).waitFor();
      await kept.locator(".jp-Dialog-footer button").last().click();
      await source.click();
      await kept.keyboard.press("Control+s");
      await until("the save", () => readFileSync(join(folder, "kept.ipynb"), "utf8").includes("# unsaved"));
      expect((await api.show()).body).toMatchObject({ state: "running", token });
      // An open tab asks for its folder, which would wake the next one.
      await kept.close();
    },
    2 * LIMIT_MS,
  );

  test(
    "asks for the API token once, and then opens what was wanted, each time",
    async () => {
      const folder = mkdtempSync(join(tmpdir(), "upstream-"));
      const PYTHON = installUpstream(folder);
      const env = { PROXY: "true", PYTHON, API_TOKEN: "s3cret", PUBLIC_URL: "http://127.0.0.1/u/ann" };
      await using api = await TestServer.start(env);
      const visitWithToken = async () => {
        const page = await browser.visit(`${api.url}/u/ann/lab?a=b`);
        expect(page.url()).toStartWith(`${api.url}/u/ann/?next=`);
        await page.locator("#api-token").fill("s3cret");
        await page.locator("#api-token").press("Enter");
        return page;
      };
      const opened = browser.page.getByText("JupyterLab", { exact: true });
      await browser.visit(`${api.url}/u/ann/lab`);
      expect(await stateOf(api)).toBe("stopped");
      const page = await visitWithToken();
      await opened.waitFor();
      expect(page.url()).toBe(`${api.url}/u/ann/lab?a=b`);
      const again = await browser.visit(`${api.url}/u/ann/lab`);
      expect(await again.textContent("body")).toBe("JupyterLab");

      await browser.context.clearCookies();
      await visitWithToken();
      await opened.waitFor();

      // A browser that keeps no cookie is told so, and is not asked for the token for ever.
      await browser.context.clearCookies();
      await page.route("**/api/servers/session", async (route) => {
        const response = await route.fetch();
        await browser.context.clearCookies();
        const { "set-cookie": _, ...headers } = response.headers();
        await route.fulfill({ response, headers });
      });
      await visitWithToken();
      await page.getByRole("alert").getByText("this browser kept no cookie").waitFor();
      rmSync(folder, { recursive: true });
    },
    LIMIT_MS,
  );
});
