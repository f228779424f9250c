/** The control page in a real Chromium, with the real JupyterLab. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { appendFileSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Page } from "playwright-core";
import { CHROMIUM, readOutput, runCell, TestBrowser, writeNotebook } from "../browser.ts";
import { freePort, PYTHON, TestServer, until } from "../helpers.ts";

const LIMIT_MS = 180_000;
const API_TOKEN = "of-the-control-api";

/** The lowest contrast of any text that is seen, by the formula of WCAG 2. Runs in the page. */
const LOWEST_CONTRAST = `(() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const paint = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return canvas.getImageData(0, 0, 1, 1).data;
  };
  const luminance = (color) => {
    const [r, g, b] = [...color].map((part) => part / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const findGround = (element) => {
    const ground = paint(getComputedStyle(element).backgroundColor);
    return ground[3] > 0 || !element.parentElement ? ground : findGround(element.parentElement);
  };
  const texts = [...document.querySelectorAll("body *")].filter(
    (element) => element.checkVisibility() && [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()),
  );
  return Math.min(...texts.map((element) => {
    const [a, b] = [luminance(paint(getComputedStyle(element).color)), luminance(findGround(element))];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  }));
})()`;

/** What nobody could read, or would have to move sideways for. */
async function expectLegible(page: Page): Promise<void> {
  for (const colorScheme of ["light", "dark"] as const) {
    await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
    expect(await page.evaluate<number>(LOWEST_CONTRAST)).toBeGreaterThanOrEqual(4.5);
  }
  const wide = page.viewportSize();
  await page.setViewportSize({ width: 320, height: 640 });
  const width = "document.documentElement.scrollWidth - document.documentElement.clientWidth";
  expect(await page.evaluate<number>(width)).toBe(0);
  if (wide) await page.setViewportSize(wide);
}

test("its files come with a strict policy, to whoever follows a link, and hold no other file", async () => {
  await using api = await TestServer.start({ API_TOKEN });
  const get = (path: string) => fetch(`${api.url}${path}`, { headers: { "sec-fetch-site": "cross-site" } });
  const page = await get("/");
  const text = await page.text();
  const named = [...text.matchAll(/(?:src|href)="(page[^"]*)"/g)].map((match) => `/${match[1]}`);
  expect(named.length).toBeGreaterThan(2);
  for (const answer of [page, ...(await Promise.all(named.map(get)))]) {
    expect(answer.status).toBe(200);
    expect(answer.headers.get("content-security-policy")).toStartWith("default-src 'none'; script-src 'self'; ");
    expect(answer.headers.get("x-content-type-options")).toBe("nosniff");
  }
  expect(text).not.toMatch(
    / style="|<script(?! type="module" src=)|https?:\/\/(?!portal\.example\.org|www\.w3\.org\/2000\/svg)/,
  );
  const others = ["/page.ts", "/page/nothing.js", "/page/index.html", "/index.ts", "/page/../config.ts"];
  expect((await Promise.all(others.map(get))).every(({ status }) => status !== 200)).toBe(true);
});

describe.skipIf(!CHROMIUM)("in a browser", () => {
  let browser: TestBrowser;
  let page: Page;
  /** What the page should never say to its console. */
  const complaints: string[] = [];
  beforeAll(async () => {
    browser = await TestBrowser.open();
  }, LIMIT_MS);
  afterAll(() => browser[Symbol.asyncDispose]());
  afterEach(async () => {
    await Promise.all(
      browser.context
        .pages()
        .slice(1)
        .map((open) => open.close()),
    );
    expect(complaints.splice(0)).toEqual([]);
  });

  const visit = async (api: TestServer) => {
    page = await browser.context.newPage();
    page.on("pageerror", (error) => complaints.push(error.message));
    page.on(
      "console",
      (message) => /Content Security|Uncaught/.test(message.text()) && complaints.push(message.text()),
    );
    await page.goto(api.url);
  };
  const button = (name: string) => page.getByRole("button", { name, exact: true });
  const awaitState = (state: string) => page.getByRole("heading", { level: 1, name: state, exact: true }).waitFor();
  const focused = () => page.evaluate<string>("document.activeElement.id");
  const announced = () => page.locator("#announcement").textContent();

  test(
    "start by keyboard, open JupyterLab, run a cell, see the kernel at work and at rest, stop",
    async () => {
      await using api = await TestServer.start({ PYTHON });
      const gate = join(api.folder, "gate");
      const source = `import os, time\nwhile not os.path.exists(${JSON.stringify(gate)}): time.sleep(0.1)\nprint(6 * 7)`;
      writeNotebook(join(api.env.NOTEBOOK_DIR ?? "", "team"), "cell.ipynb", source);
      await visit(api);
      await awaitState("Stopped");
      await expectLegible(page);
      await page.getByLabel("Folder").fill("team");
      await page.getByLabel("Base URL").fill("/user/jo");
      await page.getByText("Advanced settings").press("Enter");
      await page
        .getByLabel("Jupyter settings")
        .fill("# ours\nc.MappingKernelManager.cull_interval = 77\nServerApp.terminals_enabled = False");
      await page.getByLabel("Environment variables").fill("GREETING=a = b");
      await page.getByLabel("Allow embedding from").fill("https://portal.example.org");
      await page.getByLabel("Base URL").press("Enter");
      await awaitState("Running");
      expect(await focused()).toBe("state");
      expect(await announced()).toMatch(/^Running, started in [\d.]+ m?s$/);
      const { body } = await api.show();
      expect(body.options).toEqual({
        "base-url": "/user/jo",
        "notebook-dir": "team",
        env: { GREETING: "***" },
        embed: ["https://portal.example.org"],
        "MappingKernelManager.cull_interval": 77,
        "ServerApp.terminals_enabled": false,
      });
      expect(await page.locator("#legend").textContent()).toMatch(
        /bind [\d.]+ m?s.*answer [\d.]+ m?s.*cold start [\d.]+ m?s/,
      );

      const opened = browser.context.waitForEvent("page");
      const link = page.getByRole("link", { name: "Open JupyterLab" });
      expect(await link.getAttribute("rel")).toContain("noopener");
      await link.click();
      const lab = await opened;
      await lab.waitForURL(`${body.url}lab**`);
      await lab.goto(`${body.url}lab/tree/cell.ipynb?token=${body.token}`);
      await runCell(lab);
      await page.bringToFront();
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
      expect((await api.show()).body.pid).toBe(body.pid);

      writeFileSync(gate, "");
      await page.locator('#kernel-table td[data-state="idle"]').waitFor();
      expect(await readOutput(lab)).toBe("42");
      await button("Restart").click();
      await until("another process", async () => ![undefined, body.pid].includes((await api.show()).body.pid));
      await awaitState("Running");
      await button("Stop").click();
      await awaitState("Stopped");
      expect(await focused()).toBe("state");
      expect((await api.show()).body.state).toBe("stopped");
    },
    LIMIT_MS,
  );

  test(
    "a start that fails is shown with its reason and its traceback, and safe mode is a button",
    async () => {
      await using api = await TestServer.start({ PYTHON });
      const config = join(api.folder, ".jupyter");
      mkdirSync(config);
      writeFileSync(join(config, "jupyter_config.py"), "raise ValueError('out of order')\n");
      await visit(api);
      await page.getByText("Advanced settings").click();
      await page.getByLabel("Environment variables").fill(`HOME=${api.folder}`);
      await button("Start").click();
      await awaitState("Failed");
      expect(await focused()).toBe("state");
      const failure = page.getByRole("region", { name: "What happened" });
      expect(await failure.textContent()).toContain("ValueError: out of order");
      expect(await announced()).toContain("ValueError: out of order");
      const traceback = failure.getByText("Traceback (most recent call last)").first();
      expect(await traceback.isVisible()).toBe(false);
      await failure.getByText("Traceback", { exact: true }).click();
      await traceback.waitFor();
      await expectLegible(page);
      await button("Start in safe mode").click();
      await awaitState("Running");
      await page.getByText("Safe mode.", { exact: false }).waitFor();
      expect((await api.show()).body.options["safe-mode"]).toBe(true);
    },
    LIMIT_MS,
  );

  test(
    "what is wrong in the form is said, and the field that it is about is shown",
    async () => {
      await using api = await TestServer.start();
      await visit(api);
      await awaitState("Stopped");
      await page.getByLabel("Base URL").fill("no-slash");
      await button("Start").click();
      await page.getByRole("alert").getByText('"base-url" must be a path that begins with /').waitFor();
      expect(await focused()).toBe("base-url");
      expect(await page.getByLabel("Base URL").getAttribute("aria-invalid")).toBe("true");
      await page.getByLabel("Base URL").fill("");
      await page.locator("#settings").evaluate((field: { value: string }) => {
        field.value = "ServerApp.x 5";
      });
      await button("Start").click();
      await page.getByRole("alert").getByText("Each line must be Class.trait = value").waitFor();
      expect(await focused()).toBe("settings");
      await expectLegible(page);
      expect((await api.show()).body.state).toBe("stopped");
    },
    LIMIT_MS,
  );

  test(
    "a start under way can be cancelled, and a crash and its restart are told",
    async () => {
      await using api = await TestServer.start();
      await visit(api);
      await page.getByText("Advanced settings").click();
      await page.getByLabel("Environment variables").fill("FAKE_MODE=hang");
      await button("Start").click();
      await awaitState("Starting…");
      await page.locator("#bar .pending").waitFor();
      await expectLegible(page);
      await button("Cancel").click();
      await awaitState("Stopped");
      expect(await page.locator("#form-error").textContent()).toBe("");
      await page.getByLabel("Environment variables").fill("");
      await button("Start").click();
      await awaitState("Running");
      process.kill((await api.show()).body.pid, "SIGKILL");
      const crash = page.getByRole("region", { name: "Restarted after a crash" });
      await crash.getByText("signal SIGKILL", { exact: false }).first().waitFor();
      await awaitState("Running");
    },
    LIMIT_MS,
  );

  test(
    "the API token is asked for, kept out of reach of other pages, and asked for again after a reload",
    async () => {
      await using api = await TestServer.start({ API_TOKEN });
      await visit(api);
      const field = page.getByLabel("Token", { exact: true });
      await field.waitFor();
      expect(await focused()).toBe("api-token");
      await expectLegible(page);
      await page.keyboard.type("of-somebody-else");
      await page.keyboard.press("Enter");
      await page.getByRole("alert").getByText("Invalid token").waitFor();
      await field.fill(API_TOKEN);
      await button("Continue").click();
      await awaitState("Stopped");
      const stored =
        "document.cookie + JSON.stringify([localStorage, sessionStorage, Object.values(window).map(String)]) + location.href";
      expect(await page.evaluate<string>(stored)).not.toContain(API_TOKEN);
      await page.reload();
      await field.waitFor();
    },
    LIMIT_MS,
  );

  test(
    "the log is live, searched, held still, and bounded",
    async () => {
      await using api = await TestServer.start();
      await visit(api);
      await api.start();
      const lines = page.locator("#lines > div");
      await lines.getByText("fake mode=ok").waitFor();
      const log = api.env.LOG_FILE ?? join(api.folder, "run", "jupyterlab.log");
      await button("Pause").click();
      appendFileSync(log, "a \u001b[0;31mline\u001b[0m while it stands still\n");
      await page.getByText("paused, 1 new").waitFor();
      expect(await lines.getByText("stands still").count()).toBe(0);
      await button("Resume").click();
      await lines.getByText("a line while it stands still", { exact: true }).waitFor();
      await page.getByLabel("Filter the log").fill("STANDS");
      await page.getByText("1 of 2 lines").waitFor();
      expect(await lines.getByText("fake mode=ok").isVisible()).toBe(false);
      expect(await page.locator("#lines mark").textContent()).toBe("stands");
      await page.getByLabel("Filter the log").fill("");
      await page.getByText("fake mode=ok").waitFor();
      for (let part = 0; part < 5; part += 1) {
        appendFileSync(log, Array.from({ length: 500 }, (_, line) => `<b>part ${part}, line ${line}</b>\n`).join(""));
        await lines.getByText(`<b>part ${part}, line 499</b>`).waitFor();
      }
      expect(await lines.count()).toBe(2000);
      await api.stop();
      await awaitState("Stopped");
    },
    LIMIT_MS,
  );

  test(
    "a control API that goes away is said, and the next one is found, with its log in place of the old one",
    async () => {
      const ports = { PORT: String(await freePort()) };
      const first = await TestServer.start(ports);
      await visit(first);
      await first.start();
      const lines = page.locator("#lines > div");
      await lines.getByText("fake mode=ok").waitFor();
      await first[Symbol.asyncDispose]();
      const lost = page.getByRole("alert").getByText("The control API is not responding");
      await lost.waitFor();
      await using second = await TestServer.start({ ...ports, API_TOKEN });
      const field = page.getByLabel("Token", { exact: true });
      await field.waitFor();
      expect(await lost.isVisible()).toBe(false);
      await field.fill(API_TOKEN);
      await field.press("Enter");
      await second.start({ env: { FAKE_MODE: "idle" } });
      await awaitState("Running");
      await lines.getByText("fake mode=idle").waitFor();
      expect(await lines.count()).toBe(1);
    },
    LIMIT_MS,
  );
});
