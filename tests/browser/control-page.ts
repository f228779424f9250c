/** The control page, as people use it: by keyboard and mouse, with the real JupyterLab where it matters. */
import { expect, test } from "bun:test";
import { appendFileSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { freePort, PYTHON, until } from "../support/helpers.ts";
import { TestServer } from "../support/test-server.ts";
import { findControls } from "./controls.ts";
import { expectLegible } from "./legible.ts";
import { type BrowserUse, LIMIT_MS } from "./use-browser.ts";

const API_TOKEN = "of-the-control-api";

export function testControlPage(browser: BrowserUse): void {
  const { button, awaitState, focused, announced } = findControls(browser);

  test(
    "start by keyboard, with options, and open JupyterLab",
    async () => {
      await using api = await TestServer.start();
      mkdirSync(join(api.env.NOTEBOOK_DIR ?? "", "team"), { recursive: true });
      const page = await browser.visit(api.url);
      await awaitState("Stopped");
      await expectLegible(page);
      await page.getByText("Options").press("Enter");
      await page.getByLabel("Folder").fill("team");
      await page.getByLabel("Base URL").fill("/user/jo");
      await page
        .getByLabel("Jupyter settings")
        .fill("# ours\nc.MappingKernelManager.cull_interval = 77\nServerApp.terminals_enabled = False");
      await page.getByLabel("Environment variables").fill("GREETING=a = b");
      await page.getByLabel("Allow embedding from").fill("https://portal.example.org");
      await page.getByLabel("Base URL").press("Enter");
      await awaitState("Running");
      expect(await focused()).toBe("state");
      expect(await page.evaluate<string>("getComputedStyle(document.activeElement).outlineStyle")).toBe("none");
      expect(await announced()).toMatch(/^Running\. Started in [\d.]+ m?s \(cold\)$/);
      const { body } = await api.show();
      expect(body.options).toEqual({
        "base-url": "/user/jo",
        "notebook-dir": "team",
        env: { GREETING: "***" },
        embed: ["https://portal.example.org"],
        "MappingKernelManager.cull_interval": 77,
        "ServerApp.terminals_enabled": false,
      });
      await page.getByText(/^Started in [\d.]+ m?s \(cold\)$/).click();
      await page
        .getByRole("list")
        .getByText(/^answer [\d.]+ m?s$/)
        .waitFor();

      const opened = browser.context.waitForEvent("page");
      const link = page.getByRole("link", { name: "Open JupyterLab" });
      expect(await link.getAttribute("rel")).toContain("noopener");
      await link.click();
      const lab = await opened;
      await lab.waitForURL(`${body.url}lab**`);
      await lab.close();
    },
    LIMIT_MS,
  );

  test(
    "a failed start is shown with its reason, the end of its traceback, and safe mode as a button",
    async () => {
      await using api = await TestServer.start({ PYTHON });
      const config = join(api.folder, ".jupyter");
      mkdirSync(config);
      writeFileSync(join(config, "jupyter_config.py"), "raise ValueError('out of order')\n");
      const page = await browser.visit(api.url);
      await page.getByText("Options").click();
      await page.getByLabel("Environment variables").fill(`HOME=${api.folder}`);
      await button("Start").click();
      await awaitState("Failed");
      expect(await focused()).toBe("state");
      const reason = page.getByRole("region", { name: "Failed" });
      expect(await reason.textContent()).toMatch(/ValueError: out of order\. .*Safe mode skips [\s\S]*exit code 1/);
      expect(await announced()).toContain("ValueError: out of order");
      const traceback = page.getByRole("region", { name: "Traceback" });
      await traceback.getByText("ValueError: out of order").waitFor();
      expect(await traceback.locator("#inner-frames").textContent()).toMatch(
        /^\s+File (.*\n)+\s+File .*jupyter_config/,
      );
      const earlier = traceback.getByText("Traceback (most recent call last)");
      expect(await earlier.isVisible()).toBe(false);
      await traceback.getByText("Earlier frames").click();
      await earlier.waitFor();
      await expectLegible(page);
      await button("Start in safe mode").click();
      await awaitState("Running");
      await page.getByText("Safe mode. Idle").waitFor();
      expect((await api.show()).body.options["safe-mode"]).toBe(true);

      await using other = await TestServer.start({ NOTEBOOK_DIR: "/proc/nowhere" });
      await browser.visit(other.url);
      await button("Start").click();
      await awaitState("Failed");
      await page.getByText("NOTEBOOK_DIR must be a writable folder").first().waitFor();
      expect(await button("Start in safe mode").isVisible()).toBe(false);
    },
    LIMIT_MS,
  );

  test(
    "an error in an option stands under its field, a start can be cancelled, and a crash and its restart are shown",
    async () => {
      await using api = await TestServer.start();
      const page = await browser.visit(api.url);
      await awaitState("Stopped");
      await page.getByText("Options").click();
      await page.getByLabel("Base URL").fill("no-slash");
      await page.getByLabel("Allow embedding from").fill("nobody");
      await page.getByLabel("Jupyter settings").fill("ServerApp.port = 5");
      // Folded away, the options still show their errors.
      await page.getByText("Options (3 set)").click();
      await button("Start").click();
      const error = (id: string) => page.locator(`#${id}-error`);
      await error("base-url").getByText("Base URL must be a path that begins with /").waitFor();
      await error("embed").getByText("Allow embedding from must be a list of origins").waitFor();
      await error("settings").getByText("ServerApp.port is set by").waitFor();
      expect(await error("token").textContent()).toBe("");
      expect(await focused()).toBe("base-url");
      expect(await page.getByLabel("Base URL").getAttribute("aria-invalid")).toBe("true");
      expect(await page.getByLabel("Base URL").getAttribute("aria-describedby")).toBe("base-url-error");
      await expectLegible(page);
      await page.getByLabel("Base URL").fill("");
      await page.getByLabel("Allow embedding from").fill("");
      expect(await error("base-url").textContent()).toBe("");
      await page.getByLabel("Jupyter settings").fill("ServerApp.x 5");
      await button("Start").click();
      await error("settings").getByText("Each line must be Class.trait = value").waitFor();
      expect(await focused()).toBe("settings");
      expect((await api.show()).body.state).toBe("stopped");

      await page.getByLabel("Jupyter settings").fill("");
      await page.getByLabel("Environment variables").fill("FAKE_MODE=hang");
      await button("Start").click();
      await awaitState("Starting…");
      await page.getByText("Phases").click();
      await page.locator("#bar .pending").waitFor();
      await expectLegible(page);
      await button("Cancel").click();
      await awaitState("Stopped");
      expect(await page.locator("#problem").textContent()).toBe("");
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
    "warnings of a server are shown, and a link that could not be copied is not called copied",
    async () => {
      await using api = await TestServer.start();
      await api.start();
      const page = await browser.visit("about:blank");
      await page.route("**/api/servers/", async (route) => {
        const response = await route.fetch();
        await route.fulfill({ response, json: { ...(await response.json()), warnings: ["No class has it."] } });
      });
      await page.goto(api.url);
      await page.getByRole("region", { name: "Warnings" }).getByText("No class has it.").waitFor();
      await expectLegible(page);
      await page.evaluate("navigator.clipboard.writeText = () => Promise.reject(new Error('denied'))");
      await button("Copy link").click();
      await page.getByRole("alert").getByText("The browser did not allow copying").waitFor();
      expect(await page.getByText("Copied", { exact: true }).count()).toBe(0);
      await page.unrouteAll({ behavior: "ignoreErrors" });
    },
    LIMIT_MS,
  );

  test(
    "the API token is asked for, kept out of reach of other pages, and asked for again after a reload",
    async () => {
      await using api = await TestServer.start({ API_TOKEN });
      const page = await browser.visit(api.url);
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
    "the log is live, coloured, wide, filtered, paused, and bounded",
    async () => {
      await using api = await TestServer.start();
      const page = await browser.visit(api.url);
      await api.start();
      const lines = page.locator("#lines > div");
      await lines.getByText("fake mode=ok").waitFor();
      const log = api.env.LOG_FILE ?? join(api.folder, "run", "jupyterlab.log");
      appendFileSync(log, "[W 2026-11-25 12:00:00.000 ServerApp] low\n[E 2026-11-25 12:00:00.000 ServerApp] broken\n");
      await page.locator("#lines > .warning").getByText("low").waitFor();
      await page.locator("#lines > .bad").getByText("broken").waitFor();
      await page.setViewportSize({ width: 1920, height: 1080 });
      expect((await page.locator("#lines").boundingBox())?.width).toBeGreaterThan(1700);
      // Text of twice the size on a phone.
      await page.setViewportSize({ width: 320, height: 640 });
      await page.evaluate("document.documentElement.style.fontSize = '200%'");
      const filter = page.getByLabel("Filter the log");
      expect((await filter.boundingBox())?.width).toBeGreaterThan(200);
      expect(await page.evaluate<number>("document.documentElement.scrollWidth")).toBe(320);
      const link = page.getByRole("link", { name: "API documentation" });
      expect((await link.boundingBox())?.y).toBeGreaterThan(20);
      expect((await link.boundingBox())?.height).toBeLessThan(100);
      await page.evaluate("document.documentElement.style.fontSize = ''");
      await button("Pause").click();
      appendFileSync(log, "a \u001b[0;31mline\u001b[0m while İt stands still\n");
      await page.getByText("paused, 1 new").waitFor();
      expect(await lines.getByText("stands still").count()).toBe(0);
      await button("Resume").click();
      await lines.getByText("a line while İt stands still", { exact: true }).waitFor();
      await filter.fill("STANDS");
      await page.getByText("1 of 4 lines").waitFor();
      expect(await lines.getByText("fake mode=ok").isVisible()).toBe(false);
      expect(await page.locator("#lines mark").textContent()).toBe("stands");
      await filter.fill("");
      await page.getByText("fake mode=ok").waitFor();
      for (let part = 0; part < 5; part += 1) {
        appendFileSync(log, Array.from({ length: 500 }, (_, line) => `<b>part ${part}, line ${line}</b>\n`).join(""));
        await lines.getByText(`<b>part ${part}, line 499</b>`).waitFor();
      }
      expect(await lines.count()).toBe(2000);
      await button("Pause").click();
      appendFileSync(log, "more\n".repeat(2500));
      await page.getByText("paused, 2500 new").waitFor();
      await button("Resume").click();
      await lines.getByText("more").last().waitFor();
      await api.stop();
      await awaitState("Stopped");
    },
    LIMIT_MS,
  );

  test(
    "a control API that goes away is reported, and its successor is found, with its own log",
    async () => {
      const ports = { PORT: String(await freePort()) };
      const first = await TestServer.start(ports);
      const page = await browser.visit(first.url);
      await first.start();
      const lines = page.locator("#lines > div");
      await lines.getByText("fake mode=ok").waitFor();
      await first[Symbol.asyncDispose]();
      const lost = page.getByRole("alert").getByText("The control API is not responding");
      await lost.waitFor();
      // A reverse proxy may know nothing of it meanwhile.
      const asked = new Set<string>();
      const proxy = Bun.serve({
        port: ports.PORT,
        hostname: "127.0.0.1",
        fetch({ url }) {
          asked.add(new URL(url).pathname);
          return new Response(null, { status: 404 });
        },
      });
      await until("both streams", () => asked.has("/api/servers/events") && asked.has("/api/servers/logs"));
      await proxy.stop(true);
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
}
